"""A lab's hour: people who browse, some who steer, and a new build every two minutes, on two web processes
and one model worker.

    python -m bench.soak --index data/index [--minutes 60] [--users 200] [--steerers 10]

A copy of the index is served. Users load a page, read it for a while and load the next; steerers wait for
their text. The table has requests, errors, 429s and latencies by kind, and the memory of each process after
the warm-up and at the end. It ends with 1 where a request failed otherwise than with an honest 429.
"""

import argparse
import asyncio
import os
import random
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np

from lexiscope.settings import Settings
from store import Store

READ_SECONDS = (4.0, 16.0)
"""between two pages of one user"""
WARM_UP = 0.25
"""share of the time after which memory is measured first"""
GROWTH = 0.05
P99 = 0.4


class Result(NamedTuple):
    """One request: its kind, its status (0: no response) and its seconds."""

    kind: str
    status: int
    seconds: float


class Load:
    """What the users do, and what they got."""

    def __init__(self, address: str, store: Store, end: float) -> None:
        self.address, self.end = address, end
        self.results: list[Result] = []
        self.swaps = 0
        self._draw = random.Random(0)
        entries = store.dictionaries()
        self._features = [
            f"{each.model}/{each.source}/{self._draw.randrange(100)}" for each in entries for _ in range(50)
        ]
        self._steerable = [f"{each.model}/{each.source}/{self._draw.randrange(100)}" for each in entries]
        self._words = [token.shown for token in store.home().example_tokens] or ["a"]

    async def user(self, client: httpx.AsyncClient) -> None:
        """Pages until the end: features mostly, dictionaries, searches, the home page."""
        await asyncio.sleep(self._draw.uniform(0, READ_SECONDS[1]))
        while time.monotonic() < self.end:
            feature = self._draw.choice(self._features)
            kind, path = self._draw.choices(
                [
                    ("feature", f"/{feature}"),
                    ("dictionary", f"/{feature.rpartition('/')[0]}"),
                    ("search", f"/search?q={self._draw.choice(self._words)}"),
                    ("home", "/"),
                ],
                weights=[6, 1, 2, 1],
            )[0]
            await self._ask(kind, client.get(path, headers={"accept": "text/html"}))
            await asyncio.sleep(self._draw.uniform(*READ_SECONDS))

    async def steerer(self, client: httpx.AsyncClient) -> None:
        """One text after another."""
        while time.monotonic() < self.end:
            feature = self._draw.choice(self._steerable)
            body = {
                "model": feature.partition("/")[0],
                "prompt": "Once upon a time",
                "features": [{"id": feature, "mode": "add", "strength": 1}],
                "max_tokens": 20,
            }
            await self._ask("steer", client.post("/api/v1/steer?stream=false", json=body))
            await asyncio.sleep(self._draw.uniform(2, 10))

    async def _ask(self, kind: str, request: Any) -> None:
        begun = time.monotonic()
        try:
            status = (await request).status_code
        except httpx.HTTPError:
            status = 0
        self.results.append(Result(kind, status, time.monotonic() - begun))

    async def swapper(self, settings: Settings, every: float) -> None:
        """The same dictionaries as a new build, every so often."""
        while time.monotonic() + every < self.end:
            await asyncio.sleep(every)
            command = [sys.executable, "-c", REPUBLISH, str(settings.index)]
            process = await asyncio.create_subprocess_exec(*command)
            assert await process.wait() == 0
            self.swaps += 1


REPUBLISH = """
import sys
from pathlib import Path
from lexiscope.settings import Settings
from store import BuildWriter
with BuildWriter(Settings(index=Path(sys.argv[1]))) as writer:
    writer.keep_others(replacing=[])
    writer.publish()
"""


def resident(process: int) -> dict[str, float]:
    """{what a process of this tree is: MB resident}."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and (int(folder.name) == process or _parent(folder) == process):
            status = (folder / "status").read_text()
            kilobytes = next(
                (line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")), "0"
            )
            if float(kilobytes) > 50_000:  # not the resource tracker of multiprocessing
                found[folder.name] = float(kilobytes) / 1000
    return found


def _parent(folder: Path) -> int:
    try:
        return int((folder / "stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, IndexError, ValueError):
        return 0


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


async def soak(given: argparse.Namespace, settings: Settings, address: str, processes: list[int]) -> bool:
    begun = time.monotonic()
    load = Load(address, Store(settings), begun + 60 * given.minutes)
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    memory: list[dict[str, float]] = []

    async def watch() -> None:
        for at in (WARM_UP, 0.97):
            await asyncio.sleep(max(0.0, begun + at * 60 * given.minutes - time.monotonic()))
            memory.append({name: mb for each in processes for name, mb in resident(each).items()})

    async with httpx.AsyncClient(base_url=address, timeout=200, limits=limits) as client:
        await asyncio.gather(
            watch(),
            load.swapper(settings, given.swap_seconds),
            *(load.user(client) for _ in range(given.users)),
            *(load.steerer(client) for _ in range(given.steerers)),
        )
    return report(load, memory, given)


def report(load: Load, memory: list[dict[str, float]], given: argparse.Namespace) -> bool:
    """Print the table. True where the bars hold."""
    print(
        f"{given.minutes:g} minutes, {given.users} users, {given.steerers} steerers, {load.swaps} new builds"
    )
    print(f"{'':12} {'requests':>9} {'429':>6} {'errors':>7} {'p50 ms':>8} {'p99 ms':>8}")
    reads: list[float] = []
    for kind in sorted({result.kind for result in load.results}):
        own = [result for result in load.results if result.kind == kind]
        statuses = Counter(result.status for result in own)
        seconds = [result.seconds for result in own if result.status == 200]
        reads += seconds if kind != "steer" else []
        failed = sum(count for status, count in statuses.items() if status not in (200, 429))
        middle, high = np.percentile(seconds, [50, 99]) * 1000 if seconds else (np.nan, np.nan)
        print(f"{kind:12} {len(own):9,} {statuses[429]:6} {failed:7} {middle:8.0f} {high:8.0f}")
    failures = Counter((each.kind, each.status) for each in load.results if each.status not in (200, 429))
    p99 = float(np.percentile(reads, 99)) if reads else np.nan
    grown = [memory[1][name] / memory[0][name] - 1 for name in memory[0] if name in memory[1]]
    for name in memory[0]:
        print(f"process {name}: {memory[0][name]:,.0f} MB, then {memory[1].get(name, np.nan):,.0f} MB")
    print(f"reads: p99 {1000 * p99:.0f} ms, at most {1000 * P99:.0f} wanted")
    print(f"memory: {100 * max(grown):+.1f} % after the warm-up, at most {100 * GROWTH:.0f} wanted")
    print(f"errors: {sum(failures.values())} {dict(failures) or ''}")
    return not failures


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.add_argument("--index", type=Path, default=Settings().index)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--users", type=int, default=200)
    parser.add_argument("--steerers", type=int, default=10)
    parser.add_argument("--swap-seconds", type=float, default=120)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        index = Path(folder) / "index"
        shutil.copytree(given.index, index)
        settings, port, worker_port = Settings(index=index), free_port(), free_port()
        environment = {
            **os.environ,
            "LEXISCOPE_INDEX": str(index),
            "LEXISCOPE_WEB_PROCESSES": "2",
            "LEXISCOPE_WORKER_URL": f"http://127.0.0.1:{worker_port}",
            "LEXISCOPE_WORKER_TOKEN": secrets.token_hex(16),
        }
        command = [sys.executable, "-c", "import cli; cli.run()"]
        worker = subprocess.Popen([*command, "worker", "--port", str(worker_port)], env=environment)
        server = subprocess.Popen([*command, "serve", "--port", str(port)], env=environment)
        try:
            address = f"http://127.0.0.1:{port}"
            wait(f"{address}/readyz")
            held = asyncio.run(soak(given, settings, address, [server.pid, worker.pid]))
        finally:
            for process in (server, worker):
                process.terminate()
            for process in (server, worker):
                process.wait(timeout=60)
    sys.exit(0 if held else 1)


def wait(address: str, seconds: float = 600) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if httpx.get(address, timeout=10).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.5)
    raise TimeoutError(f"{address} is not ready after {seconds:.0f} s")


if __name__ == "__main__":
    main()
