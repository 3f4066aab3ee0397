"""A lab's hour: people who browse, some who steer, and a new build every two minutes, on two web processes
and one model worker.

    python -m bench.soak --index data/index [--minutes 60] [--users 200] [--steerers 10] [--write]

A copy of the index is served. Users load a page, read it for a while and load the next; steerers wait for
their text. The tables have requests, errors, 429s and latencies by kind, and the memory of web processes and
worker after the warm-up and at the end. It ends with 1 where a request failed otherwise than with an honest
429.
"""

import argparse
import asyncio
import os
import random
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np

from bench.processes import Use, use
from bench.report import Report, write_option
from lexiscope.settings import Settings
from store import Store
from tests.smoke import free_port

READ_SECONDS = (4.0, 16.0)
"""between two pages of one user"""
WARM_UP = 0.25
"""share of the time after which memory is measured first"""
GROWTH = 0.05
P99 = 0.4
COLUMNS = ["request", "number", "429", "errors", "p50 ms", "p95", "p99"]


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


async def soak(
    given: argparse.Namespace, settings: Settings, address: str, processes: dict[str, int]
) -> tuple[Load, list[dict[str, Use]]]:
    """(what users got; what the processes took after the warm-up and near the end, by their names)"""
    begun = time.monotonic()
    load = Load(address, Store(settings), begun + 60 * given.minutes)
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    taken: list[dict[str, Use]] = []

    async def watch() -> None:
        for at in (WARM_UP, 0.97):
            await asyncio.sleep(max(0.0, begun + at * 60 * given.minutes - time.monotonic()))
            taken.append({name: use(process) for name, process in processes.items()})

    async with httpx.AsyncClient(base_url=address, timeout=200, limits=limits) as client:
        await asyncio.gather(
            watch(),
            load.swapper(settings, given.swap_seconds),
            *(load.user(client) for _ in range(given.users)),
            *(load.steerer(client) for _ in range(given.steerers)),
        )
    return load, taken


def add_tables(report: Report, load: Load, taken: list[dict[str, Use]], given: argparse.Namespace) -> bool:
    """The tables and bars of a run. True where no request failed."""
    did = f"{given.minutes:g} minutes, {given.users} users, {given.steerers} steerers"
    table = report.table(f"{did}, {load.swaps} new builds", COLUMNS)
    failures: Counter[tuple[str, int]] = Counter()
    reads: list[float] = []
    for kind in sorted({result.kind for result in load.results}):
        own = [result for result in load.results if result.kind == kind]
        statuses = Counter(result.status for result in own)
        seconds = [result.seconds for result in own if result.status == 200]
        reads += seconds if kind != "steer" else []
        failed = {status: count for status, count in statuses.items() if status not in (200, 429)}
        failures.update({(kind, status): count for status, count in failed.items()})
        shown = [f"{1000 * np.percentile(seconds, at):,.0f}" if seconds else "–" for at in (50, 95, 99)]
        counts = (len(own), statuses[429], sum(failed.values()))
        table.rows.append([kind, *(f"{count:,}" for count in counts), *shown])
    warm, last = taken
    grew: list[str] = []
    processes = report.table("", ["processes", "MB after the warm-up", "MB at the end", "growth", "CPU s"])
    for name, before in warm.items():
        after = last[name]
        grown = after.megabytes / before.megabytes - 1 if before.megabytes else float("nan")
        grew += [name] if grown > GROWTH else []
        memory = (f"{one.megabytes:,.0f}" for one in (before, after))
        processes.rows.append([name, *memory, f"{100 * grown:+.1f} %", f"{after.cpu_seconds:,.0f}"])
    p99 = f"{1000 * np.percentile(reads, 99):,.0f}" if reads else "–"
    failed_by = ", ".join(f"{kind} {status or 'no response'}: {n}" for (kind, status), n in failures.items())
    report.notes += [
        f"Reads: p99 {p99} ms; at most {1000 * P99:.0f} wanted.",
        f"Memory: at most {100 * GROWTH:.0f} % growth wanted; more: {', '.join(grew) or 'none'}.",
        f"Errors but 429s: {failed_by or 'none'}.",
    ]
    return not failures


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.add_argument("--index", type=Path, default=Settings().index)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--users", type=int, default=200)
    parser.add_argument("--steerers", type=int, default=10)
    parser.add_argument("--swap-seconds", type=float, default=120)
    write_option(parser)
    given = parser.parse_args()
    report = Report("soak")
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
        started = {
            "model worker": [*command, "worker", "--port", str(worker_port)],
            "2 web processes": [*command, "serve", "--port", str(port)],
        }
        processes = {name: subprocess.Popen(line, env=environment) for name, line in started.items()}
        try:
            address = f"http://127.0.0.1:{port}"
            wait(f"{address}/readyz")
            ids = {name: process.pid for name, process in processes.items()}
            load, taken = asyncio.run(soak(given, settings, address, ids))
        finally:
            for process in processes.values():
                process.terminate()
            for process in processes.values():
                process.wait(timeout=60)
    held = add_tables(report, load, taken, given)
    report.finish(write=given.write)
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
