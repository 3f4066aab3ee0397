"""`python -m bench.store_reads [--shape gpt2] [--database duckdb] [--requests 1000]`: how long the index
takes to answer.

Builds the synthetic index of bench.synthetic_index in both databases (PostgreSQL: a temporary server, or the
one of `--url`), or opens what `--at` holds, and sends random requests of the kinds that pages make, one at a
time, after 50 to warm up. A third of the name searches are filtered, list pages have random sorts and
filters, and feature records are of live features with 50 contexts. CPU is this process's time a request, mean
and 99th percentile, which hold on a busy machine too (PostgreSQL's own processes are not in it).
"""

import argparse
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bench import synthetic_index
from bench.report import Report, Table, write_option
from lexiscope.records import Filters
from lexiscope.settings import Settings
from store import NoIndex, Store
from tests.store.postgres_server import Server, binaries

TARGETS = {"feature record": 15, "name search": 40, "list page": 60, "token page": 40}
"""milliseconds, 99th percentile"""
COLUMNS = ["index", "database", "request", "p50 ms", "p95", "p99", "target (p99)", "CPU ms", "CPU p99"]
MODEL = "synthetic"


class Requests:
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
            with_contexts = range(0, self.shape.vocab, self.shape.every)
            ids = [f"{MODEL}/{self.source()}/{self.draw.choice(with_contexts)}" for _ in range(64)]
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
            else {"verdict": "specific"}
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
            asked["verdict"] = self.draw.choice(["specific", "partial", "weak", "none"])
        if self.draw.random() < 0.3:
            asked["min_cosine"] = round(self.draw.random(), 2)
        self.store.dictionary_page(MODEL, self.source(), Filters.model_validate(asked))

    def token_page(self) -> None:
        self.store.token_page(MODEL, self.token())


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def measure(settings: Settings, shape: synthetic_index.Shape, database: str, n: int, table: Table) -> None:
    """Send n requests of each kind, and add a row for each."""
    store = Store(settings)
    draw = Requests(store, shape)
    kinds: dict[str, Callable[[], None]] = {
        "feature record": draw.feature_record,
        "name search": draw.name_search,
        "list page": draw.list_page,
        "token page": draw.token_page,
    }
    for kind, send in kinds.items():
        for _ in range(50):
            send()
        taken, cpu = [], []
        for _ in range(n):
            start, busy = time.perf_counter(), time.process_time()
            send()
            taken.append(1000 * (time.perf_counter() - start))
            cpu.append(1000 * (time.process_time() - busy))
        p50, p95, p99 = (percentile(taken, share) for share in (0.5, 0.95, 0.99))
        target = f"≤ {TARGETS[kind]}: {'met' if p99 <= TARGETS[kind] else '**missed**'}"
        times = [f"{p50:.1f}", f"{p95:.1f}", f"{p99:.1f}", target]
        times += [f"{statistics.mean(cpu):.1f}", f"{percentile(cpu, 0.99):.1f}"]
        table.rows.append([shape.name, database, kind, *times])
        print(*table.rows[-1], sep="  ", file=sys.stderr, flush=True)
    store.close()


def prepared(settings: Settings, shape: synthetic_index.Shape, database: str) -> str:
    """The index built, unless it is there; its size, and what building it took."""
    about = f"{shape.name}, {database}: {shape.n_features:,} features ({shape.layers} × {shape.vocab:,})"
    about += f", contexts of one feature in {shape.every}"
    try:
        build = Store(settings).build_id()
    except NoIndex:
        start = time.perf_counter()
        build = synthetic_index.write(settings, shape)
        about += f", built in {time.perf_counter() - start:.0f} s"
    file = settings.index / f"{build}.duckdb"
    if file.exists() and not settings.database_url:
        about += f", {file.stat().st_size / 1e6:,.0f} MB"
    return f"{about}."


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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", action="append", choices=sorted(synthetic_index.SHAPES))
    parser.add_argument("--database", action="append", choices=["duckdb", "postgres"])
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument(
        "--at", type=Path, default=Path("data/index/bench-store"), help="where DuckDB indexes are kept"
    )
    parser.add_argument(
        "--url",
        default="",
        help="a running server, without the database: postgresql+psycopg://user:password@host:port",
    )
    write_option(parser)
    given = parser.parse_args()
    report = Report("store_reads")
    table = report.table(f"{given.requests:,} requests of each kind", COLUMNS)
    for shape in [synthetic_index.SHAPES[name] for name in given.shape or ["gpt2", "llama"]]:
        for database in given.database or ["duckdb", "postgres"]:
            with place(database, shape, given.at, given.url) as settings:
                report.notes.append(prepared(settings, shape, database))
                measure(settings, shape, database, given.requests, table)
    report.finish(write=given.write)


if __name__ == "__main__":
    main()
