"""`python -m bench.serve_load [--index FOLDER] [--seconds 600] [--datasette]`: reads at load.

`lexiscope serve` runs in a process of its own; this one keeps 16 connections busy with 70 % feature records,
20 % searches and 10 % completions of tokens, of 2,000 live features drawn at random, over loopback. Targets
on two cores, at 603,084 features and one web process: 300 requests a second, p99 150 ms, no error, and memory
that does not grow. The other rows are `--short` seconds: with no answer kept (LEXISCOPE_ANSWERS_MEMORY=0), so
that each is computed, and with `--workers` web processes.

With `--datasette`, the same feature records lie in SQLite as JSON behind Datasette, in an environment of its
own, and both answer feature records alone.
"""

import argparse
import asyncio
import os
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import httpx

from bench.peer_environments import interpreter
from bench.processes import use
from bench.report import Report, Table, times, write_option
from lexiscope.settings import Settings
from tests.smoke import free_port

CONNECTIONS = 16
WARM = 0.1
"""Of the time of a row, before it is measured."""
COLUMNS = [
    *("server", "reads", "requests/s", "p50 ms", "p95", "p99", "errors", "kB each"),
    *("server's CPU ms each", "MB first", "MB last"),
]
SAMPLE = 2000
"""features and tokens that requests are drawn from"""

Draw = Callable[[random.Random], str]


class Load(NamedTuple):
    """What a run gave."""

    milliseconds: list[float]
    """sorted"""
    seconds: float
    counts: Counter[str]
    """errors, and bytes of bodies"""

    def quantile(self, share: float) -> float:
        return self.milliseconds[min(int(share * len(self.milliseconds)), len(self.milliseconds) - 1)]

    @property
    def rate(self) -> float:
        return len(self.milliseconds) / self.seconds


async def connection(port: int, draw: Draw, seed: int, until: float, load: Load, *, measured: bool) -> None:
    """One keep-alive connection: a request after the other."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    chosen = random.Random(seed)
    while time.perf_counter() < until:
        begun = time.perf_counter()
        writer.write(f"GET {draw(chosen)} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        status = int(head.split(b" ", 2)[1])
        size = await body(reader, head)
        if measured:
            load.milliseconds.append(1000 * (time.perf_counter() - begun))
            load.counts["errors"] += status != 200
            load.counts["bytes"] += size
    writer.close()


async def body(reader: asyncio.StreamReader, head: bytes) -> int:
    """Read a response's body; its bytes."""
    lower = head.lower()
    if b"transfer-encoding: chunked" in lower:
        size = 0
        while n := int(await reader.readline(), 16):
            await reader.readexactly(n + 2)
            size += n
        await reader.readline()
        return size
    length = int(lower.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
    await reader.readexactly(length)
    return length


async def run(port: int, draw: Draw, seconds: float, *, measured: bool) -> Load:
    load = Load([], seconds, Counter())
    until = time.perf_counter() + seconds
    await asyncio.gather(
        *(connection(port, draw, seed, until, load, measured=measured) for seed in range(CONNECTIONS))
    )
    load.milliseconds.sort()
    return load


class Server(NamedTuple):
    """A server that is loaded."""

    name: str
    port: int
    process: subprocess.Popen[bytes]

    def measure(self, reads: str, draw: Draw, seconds: float) -> tuple[float, list[str]]:
        """(requests a second, a row of the report)"""
        asyncio.run(run(self.port, draw, WARM * seconds, measured=False))
        before = use(self.process.pid, without="server.live")
        load = asyncio.run(run(self.port, draw, seconds, measured=True))
        after, n = use(self.process.pid, without="server.live"), len(load.milliseconds)
        quantiles = (f"{load.quantile(share):.1f}" for share in (0.5, 0.95, 0.99))
        size = f"{load.counts['bytes'] / n / 1000:.1f}"
        cpu = f"{1000 * (after.cpu_seconds - before.cpu_seconds) / n:.1f}"
        memory = [f"{one.megabytes:.0f}" for one in (before, after)]
        shown = [*quantiles, str(load.counts["errors"]), size, cpu, *memory]
        return load.rate, [self.name, reads, f"{load.rate:.0f}", *shown]


@contextmanager
def running(
    command: list[str], port: int, page: str, environment: dict[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    try:
        for _ in range(1200):
            if process.poll() is not None:
                sys.exit(f"{command[0]} ended with {process.returncode}")
            try:
                httpx.get(f"http://127.0.0.1:{port}{page}", timeout=60).raise_for_status()
                break
            except httpx.TransportError:
                time.sleep(0.1)
        yield process
    finally:
        process.terminate()
        process.wait(timeout=60)


def mixed(port: int) -> tuple[Draw, list[str]]:
    """(70 % feature records, 20 % searches, 10 % completions; ids of live features)"""
    with httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1", timeout=60) as client:
        ids: list[str] = []
        words: list[str] = []
        for dictionary in client.get("/dictionaries").json()["dictionaries"]:
            place = f"/dictionaries/{quote(dictionary['model'])}/{quote(dictionary['source'])}/features"
            page = client.get(place, params={"live": True, "limit": 200, "sort": "density"}).json()
            ids += [ref["id"] for ref in page["features"]]
            words += [ref["name"]["shown"] for ref in page["features"]]
        model = ids[0].partition("/")[0]
    ids, words = ids[:SAMPLE], words[:SAMPLE]

    def draw(chosen: random.Random) -> str:
        kind = chosen.random()
        if kind < 0.7:
            return f"/api/v1/features/{quote(chosen.choice(ids))}"
        if kind < 0.9:
            return f"/api/v1/search?q={quote(chosen.choice(words))}&limit=20"
        return f"/api/v1/models/{quote(model)}/tokens?prefix={quote(chosen.choice(words)[:3])}"

    return draw, ids


def beside_datasette(server: Server, ids: list[str], seconds: float, table: Table) -> str:
    """Feature records alone, from both servers."""
    keys = {feature_id: feature_id.replace("/", "-") for feature_id in ids}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "features.db"
        with (
            sqlite3.connect(file) as rows,
            httpx.Client(base_url=f"http://127.0.0.1:{server.port}") as client,
        ):
            rows.execute("CREATE TABLE feature (id TEXT PRIMARY KEY, record TEXT)")
            for feature_id, key in keys.items():
                record = client.get(f"/api/v1/features/{quote(feature_id)}").text
                rows.execute("INSERT INTO feature VALUES (?, ?)", (key, record))

        def ours(chosen: random.Random) -> str:
            return f"/api/v1/features/{quote(chosen.choice(ids))}"

        def theirs(chosen: random.Random) -> str:
            return f"/features/feature/{quote(keys[chosen.choice(ids)])}.json?_shape=array"

        own, row = server.measure("features", ours, seconds)
        table.rows.append(row)
        port = free_port()
        command = [interpreter("datasette"), "-m", "datasette", "-i", str(file), "--port", str(port)]
        with running(command, port, theirs(random.Random(0)), dict(os.environ)) as process:
            other, row = Server("datasette", port, process).measure("features", theirs, seconds)
            table.rows.append(row)
    return f"Feature records beside Datasette: {times(own, other)} its requests a second."


@contextmanager
def lexiscope(index: Path, name: str, *, workers: int = 1, memory: str = "") -> Iterator[Server]:
    port = free_port()
    environment = os.environ | {"LEXISCOPE_INDEX": str(index), "LEXISCOPE_DATABASE_URL": ""}
    if memory:
        environment["LEXISCOPE_ANSWERS_MEMORY"] = memory
    command = [str(Path(sys.executable).with_name("lexiscope")), "serve", "--port", str(port)]
    command += ["--workers", str(workers)]
    with running(command, port, "/api/v1/models", environment) as process:
        yield Server(name, port, process)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--index", type=Path, default=Settings().index)
    parser.add_argument("--seconds", type=float, default=600, help="of the first row")
    parser.add_argument("--short", type=float, default=60, help="seconds of each other row")
    parser.add_argument("--workers", type=int, default=2, help="web processes of the last mixed row")
    parser.add_argument("--datasette", action="store_true", help="also beside Datasette")
    write_option(parser)
    given = parser.parse_args()
    report = Report("serve_load")
    table = report.table(f"{CONNECTIONS} connections, {given.seconds:g} and {given.short:g} s", COLUMNS)

    def add(row: list[str]) -> None:
        table.rows.append(row)
        print(*row, sep="  ", file=sys.stderr, flush=True)

    with lexiscope(given.index, "lexiscope, 1 process") as server:
        draw, ids = mixed(server.port)
        home = httpx.get(f"http://127.0.0.1:{server.port}/api/v1/models", timeout=60).json()
        n_features = sum(model["n_features"] for model in home["models"])
        add(server.measure("mixed", draw, given.seconds)[1])
        report.notes.append(f"An index of {n_features:,} features; no compression was asked for.")
        if given.datasette:
            report.notes.append(beside_datasette(server, ids[:200], given.short, table))
    with lexiscope(given.index, "lexiscope, 1 process, no answer kept", memory="0") as server:
        add(server.measure("mixed", draw, given.short)[1])
    with lexiscope(given.index, f"lexiscope, {given.workers} processes", workers=given.workers) as server:
        add(server.measure("mixed", draw, given.short)[1])
    report.finish(write=given.write)


if __name__ == "__main__":
    main()
