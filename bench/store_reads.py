"""`python -m bench.store_reads [--shape gpt2] [--database duckdb] [--requests 1000] [--write]`: how long the
index takes to answer.

Builds the synthetic index of bench/synthetic_index.py in both databases (PostgreSQL: a throw-away server, or
the one of --url), or opens what --at already holds, and asks it random requests of the kinds people make, one
at a time. Prints milliseconds beside the targets of issue 5; --write puts the table into docs/bench-store.md.
CPU is this process's time, all threads: what a request costs on a machine that others use too (PostgreSQL's
own processes are not in it).
"""

import argparse
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from bench import synthetic_index
from lexiscope.records import Filters
from lexiscope.settings import Settings
from store import NoIndex, Store
from tests.store.postgres_server import Server, binaries

TARGETS = {"feature record": 15, "name search": 40, "list page": 60, "token page": 40}
PAGE = Path(__file__).parent.parent / "docs" / "bench-store.md"
MODEL = "synthetic"


class Line(NamedTuple):
    shape: str
    database: str
    kind: str
    p50: float
    p95: float
    p99: float
    cpu: float
    """mean milliseconds of this process's CPU a request"""


class Asker:
    """Random requests to one store."""

    def __init__(self, store: Store, shape: synthetic_index.Shape) -> None:
        self.store, self.shape = store, shape
        self.draw = random.Random(0)
        self.words = [word.decode(errors="replace") for word in synthetic_index.words(shape.vocab)]
        self.live = self._live(1500)

    def _live(self, n: int) -> list[str]:
        """Live features that have contexts, found by their references alone."""
        found: list[str] = []
        while len(found) < n:
            ids = [
                f"{MODEL}/{self.source()}/{self.draw.randrange(self.shape.vocab // self.shape.every) * self.shape.every}"
                for _ in range(64)
            ]
            found += [ref.id for ref in self.store.feature_refs(ids) if ref.verdict != "dead"]
        return found

    def source(self) -> str:
        return f"{self.draw.randrange(self.shape.layers)}-vasae"

    def token(self) -> int:
        """Half of the requests are for frequent tokens."""
        power = self.draw.choice([1, 4])
        return int(self.shape.vocab * self.draw.random() ** power)

    def feature_record(self) -> None:
        model, source, index = self.draw.choice(self.live).split("/")
        self.store.feature(model, source, int(index))

    def name_search(self) -> None:
        word, way = self.words[self.token()], self.draw.random()
        if way < 0.4:
            query = word
        elif way < 0.6:
            query = word.strip().upper()
        elif way < 0.8:
            query = word.strip()[: self.draw.choice([2, 3, 4])]
        elif way < 0.9:
            query = word.strip()[1:4]
        elif way < 0.95:
            query = f"#{self.token()}"
        else:
            query = self.draw.choice("aeionrst")
        filters = (
            {"live": True}
            if self.draw.random() < 0.2
            else {"verdict": "reads"}
            if self.draw.random() < 0.2
            else {}
        )
        self.store.search(query or "a", Filters.model_validate(filters))

    def list_page(self) -> None:
        asked: dict[str, object] = {
            "sort": self.draw.choice(["index", "cosine", "density", "max_activation", "name"])
        }
        asked["descending"] = self.draw.random() < 0.7
        if self.draw.random() < 0.5:
            asked["live"] = True
        if self.draw.random() < 0.3:
            asked["verdict"] = self.draw.choice(["reads", "predicts", "both", "unsupported"])
        if self.draw.random() < 0.3:
            asked["min_cosine"] = round(self.draw.random(), 2)
        self.store.dictionary_page(MODEL, self.source(), Filters.model_validate(asked))

    def token_page(self) -> None:
        self.store.token_page(MODEL, self.token())


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def measure(settings: Settings, shape: synthetic_index.Shape, database: str, requests: int) -> list[Line]:
    store = Store(settings)
    asker = Asker(store, shape)
    asks: dict[str, Callable[[], None]] = {
        "feature record": asker.feature_record,
        "name search": asker.name_search,
        "list page": asker.list_page,
        "token page": asker.token_page,
    }
    lines = []
    for kind, ask in asks.items():
        for _ in range(50):
            ask()
        taken, before = [], time.process_time()
        for _ in range(requests):
            start = time.perf_counter()
            ask()
            taken.append(1000 * (time.perf_counter() - start))
            time.sleep(
                taken[-1] / 5000
            )  # a scheduler that throttles real-time processes has then no reason to
        cpu = 1000 * (time.process_time() - before) / requests
        line = Line(
            shape.name, database, kind, *(percentile(taken, share) for share in (0.5, 0.95, 0.99)), cpu
        )
        lines.append(line)
        print(row(line), flush=True)
    store.close()
    return lines


def row(line: Line) -> str:
    target = TARGETS[line.kind]
    met = "met" if line.p99 <= target else "**missed**"
    numbers = f"{line.p50:.1f} | {line.p95:.1f} | {line.p99:.1f} | ≤ {target}: {met} | {line.cpu:.1f}"
    return f"| {line.shape} | {line.database} | {line.kind} | {numbers} |"


def prepared(settings: Settings, shape: synthetic_index.Shape) -> str:
    """The index built, unless it is there; what building it took."""
    try:
        build = Store(settings).build_id()
        took = "was there"
    except NoIndex:
        start = time.perf_counter()
        build = synthetic_index.write(settings, shape)
        took = f"built in {time.perf_counter() - start:.0f} s"
    file = settings.index / f"{build}.duckdb"
    size = f", {file.stat().st_size / 1e6:,.0f} MB" if file.exists() and not settings.database_url else ""
    return f"{shape.n_features:,} features ({shape.layers} × {shape.vocab:,}), contexts of one feature in {shape.every}: {took}{size}"


@contextmanager
def place(database: str, shape: synthetic_index.Shape, at: Path, url: str) -> Iterator[Settings]:
    settings = Settings(index=at / shape.name, database_url="")
    if database == "duckdb":
        yield settings
    elif url:
        yield settings.model_copy(update={"database_url": f"{url}/lexiscope_bench_{shape.name}"})
    else:
        programs = binaries()
        if programs is None:
            sys.exit("PostgreSQL is not installed (Debian: apt-get install postgresql)")
        server = Server(programs)
        try:
            yield settings.model_copy(update={"database_url": server.url(server.new_database())})
        finally:
            server.close()


def machine() -> str:
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    cores = f"{len(os.sched_getaffinity(0))} cores ({models[0] if models else 'unknown'})"
    return f"{cores}, load average {load}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", action="append", choices=sorted(synthetic_index.SHAPES))
    parser.add_argument("--database", action="append", choices=["duckdb", "postgres"])
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--at", type=Path, default=Path("data/bench-store"))
    parser.add_argument(
        "--url",
        default="",
        help="a running server, without the database: postgresql+psycopg://user:password@host:port",
    )
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    written = []
    for shape in [synthetic_index.SHAPES[name] for name in asked.shape or ["gpt2", "llama"]]:
        for database in asked.database or ["duckdb", "postgres"]:
            with place(database, shape, asked.at, asked.url) as settings:
                about = f"{database}, {shape.name}: {prepared(settings, shape)}; {machine()}."
                print(about, flush=True)
                written.append((about, measure(settings, shape, database, asked.requests)))
    if asked.write:
        PAGE.write_text(page(written, asked.requests))


def page(written: list[tuple[str, list[Line]]], requests: int) -> str:
    lines = "\n".join(row(line) for _, measured in written for line in measured)
    notes = "\n".join(f"- {about}" for about, _ in written)
    return f"""# How long the index takes to answer

`python -m bench.store_reads --write`: {requests:,} random requests of each kind, one at a time, after 50 to warm up; milliseconds.
A feature record is of a live feature with 50 contexts; a name search is an exact name, a name without its case, a beginning, a middle,
an id or one letter, a third of them filtered; a list page is a dictionary's page under a random sort and filters. CPU is the asking
process's mean a request, which other work on the machine hardly changes (PostgreSQL's own processes are not in it).

| index | database | request | p50 | p95 | p99 | target (p99) | CPU |
|---|---|---|--:|--:|--:|---|--:|
{lines}

{notes}
"""


if __name__ == "__main__":
    main()
