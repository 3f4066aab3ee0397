"""One function for each fault of disk, database, clock and descriptors: it returns how often the fault was
made, and what was found. Wrong findings are AssertionErrors; Skipped says what is missing here.
"""

import os
import random
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
from fastapi.testclient import TestClient

import indexer
import trainer
from indexer.exchange import (
    NeuronpediaExportRequest,
    export_neuronpedia,
    export_parquet,
    import_parquet,
)
from lexiscope.checkpoint import export_saelens, load_checkpoint
from lexiscope.errors import LexiscopeError
from lexiscope.records import LabelRequest
from lexiscope.settings import Settings
from lexiscope.study_files import write_record
from lexiscope.text import Text
from server import create_app
from store import BuildWriter, Labels, StoreError, build_files
from tests.long.kills import QUIET, begin, forked, plan
from tests.server.test_study_pages import record
from tests.smoke import free_port
from tests.store import postgres_server, synthetic

PAGES = (
    "/index.json",
    "/m/0-vasae.json",
    "/search.json?q=word",
    *(f"/m/0-vasae/{n}.json" for n in range(0, 30, 3)),
)
SMALL = [synthetic.Dictionary("m", 0, d_sae=30)]


class Skipped(Exception):
    """What this fault needs and this machine has not."""


@contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[Path]:
    """A file system of its own, of so many kB."""
    folder.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "lexiscope-test", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        raise Skipped("only root can mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


def said(act: Callable[[], object]) -> str:
    """Run a command in a process of its own: what it says, in one line; empty where it succeeds."""
    reader, writer = os.pipe()
    with forked(lambda: os.write(writer, _outcome(act).encode())) as process:
        os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            text = pipe.read().decode()
        os.waitpid(process, 0)
    return text.removeprefix("done")


def _outcome(act: Callable[[], object]) -> str:
    try:
        act()
    except LexiscopeError as error:
        return str(error)
    except BaseException as error:
        return f"UNEXPECTED {type(error).__name__}: {error}"
    return "done"


def full_disk(folder: Path, rounds: int, draw: random.Random) -> tuple[int, str]:
    """Each writer on disks of random sizes: one line, what was there before is still read, and with room the
    same work ends well.
    """
    model = begin(folder)
    whole = trainer.train(model, plan(folder, folder / "whole"), console=QUIET)
    index = folder / "index"
    synthetic.publish(index, SMALL)
    export_parquet(folder / "exported", settings=Settings(index=index))
    checkpoint = load_checkpoint(whole[-1])  # SAELens has no token look-up

    def job(disk: Path) -> None:
        ask = indexer.IndexRequest(tokens=3000, length=48, resume=True)
        settings = Settings(index=disk / "index", lenses=disk / "lenses")
        loaded = [(model, [load_checkpoint(path) for path in whole])]
        indexer.index(
            loaded, Text((str(folder / "text.txt"),)), settings=settings, console=QUIET, request=ask
        )

    def label(disk: Path) -> None:
        labels = Labels(Settings(index=disk / "index"))
        for number in range(2000):
            labels.add("m", "0-vasae", number % 30, LabelRequest(label="x" * 60), author="a", identity="")
        labels.close()

    writers: dict[str, Callable[[Path], object]] = {
        "trainer": lambda disk: trainer.train(model, plan(folder, disk / "runs"), console=QUIET),
        "indexer": job,
        "build": lambda disk: synthetic.publish(disk / "index", SMALL),
        "import": lambda disk: import_parquet(
            folder / "exported", settings=Settings(index=disk / "index"), replace=True
        ),
        "export": lambda disk: export_parquet(
            disk / f"out{len(list(disk.iterdir()))}", settings=Settings(index=index)
        ),
        "saelens": lambda disk: export_saelens(checkpoint, disk / f"out{len(list(disk.iterdir()))}"),
        "neuronpedia": lambda disk: export_neuronpedia(
            NeuronpediaExportRequest(disk / f"out{len(list(disk.iterdir()))}", "m", "0-vasae"),
            settings=Settings(index=index),
        ),
        "cache": lambda disk: trainer.train(
            model, plan(folder, folder / "cached")._replace(cache=disk / "cache"), console=QUIET
        ),
        "study": lambda disk: [write_record(disk / "studies", record(name)) for name in map(str, range(99))],
        "labels": label,
    }
    ends: Counter[str] = Counter()
    for name, write in writers.items():
        for _ in range(max(rounds // len(writers), 3)):
            shutil.rmtree(folder / "cached", ignore_errors=True)
            with small_disk(folder / "disk", 64_000) as disk:
                shutil.copytree(index, disk / "index")
                before = contents_of(disk / "index")
                room = int(2 ** draw.uniform(2, 12))
                used = shutil.disk_usage(disk).used // 1024
                remount(disk, f"size={used + room}k")
                text = said(lambda write=write, disk=disk: write(disk))
                assert "UNEXPECTED" not in text and "\n" not in text, f"{name}: {text}"
                ends[name] += bool(text)
                if text:
                    assert contents_of(disk / "index") == before, name
                remount(disk, "size=256000k")
                text = said(lambda write=write, disk=disk: write(disk))
                assert text == "", f"{name}, with room again: {text}"
    made = sum(ends.values())
    return made, ", ".join(
        f"{name} {count}" for name, count in ends.items()
    ) + ": one line each, nothing lost"


def visitor(settings: Settings) -> TestClient:
    """A client of a server of its own."""
    app = create_app(settings)
    return TestClient(app, base_url="http://localhost", raise_server_exceptions=False)


def contents_of(index: Path) -> list[Any]:
    client = visitor(Settings(index=index))
    answers = [client.get(page) for page in PAGES]
    wrong = [(str(answer.url), answer.text) for answer in answers if answer.status_code != 200]
    assert not wrong, wrong[0]
    return [answer.json() for answer in answers]


def read_only(folder: Path, rounds: int, draw: random.Random) -> tuple[int, str]:
    """A data folder that nothing can be written to is served; writers refuse in one line."""
    with small_disk(folder / "disk", 64_000) as disk:
        index = disk / "index"
        synthetic.publish(index, SMALL)
        before = contents_of(index)
        remount(disk, "ro")
        assert contents_of(index) == before
        client = visitor(Settings(index=index))
        labelled = client.post("/api/v1/features/m/0-vasae/3/labels", json={"label": "x"})
        assert labelled.status_code in (401, 403, 404, 503), labelled.text
        text = said(lambda: synthetic.publish(index, SMALL))
        assert text and "UNEXPECTED" not in text and "\n" not in text, text
        remount(disk, "rw")
        assert said(lambda: synthetic.publish(index, SMALL)) == ""
    return 1, f"pages the same, a label gets {labelled.status_code}, a build is refused in one line"


def damaged_bytes(folder: Path, rounds: int, draw: random.Random) -> tuple[int, str]:
    """A random byte of a published build is changed: pages are right, or of the last good build, or a 503."""
    ends: Counter[str] = Counter()
    for number in range(rounds):
        index = folder / f"index-{number}"
        synthetic.publish(index, SMALL)
        client = visitor(Settings(index=index))
        good = {page: without_build(client.get(page).json()) for page in PAGES}
        build = synthetic.publish(index, SMALL)
        file = index / f"{build}.duckdb"
        content = bytearray(file.read_bytes())
        place = draw.randrange(len(content))
        content[place] ^= 1 << draw.randrange(8)
        fresh = file.with_suffix(".changed")
        fresh.write_bytes(content)
        os.replace(fresh, file)
        for page in PAGES:
            answer = client.get(page)
            assert answer.status_code in (200, 503), (place, page, answer.text)
            if answer.status_code == 200:
                assert without_build(answer.json()) == good[page], (place, page)
            ends["right" if answer.status_code == 200 else "503"] += 1
        shutil.rmtree(index)
    return rounds, f"{ends['right']:,} right pages, {ends['503']} 503s, no wrong page"


def without_build(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_build(inside) for key, inside in value.items() if key != "build"}
    return [without_build(inside) for inside in value] if isinstance(value, list) else value


def two_indexers(folder: Path, rounds: int, draw: random.Random) -> tuple[int, str]:
    """Two at once on one index: each publishes whole, or is refused in one line."""
    index, ends = folder / "index", Counter[str]()
    synthetic.publish(index, SMALL)
    expected = without_build(contents_of(index))

    def publish() -> None:
        with BuildWriter(index) as writer:
            time.sleep(draw.uniform(0, 0.2))
            synthetic.add(writer, SMALL)
            writer.publish()

    for _ in range(rounds):
        texts: list[str] = []
        both = [threading.Thread(target=lambda to=texts: to.append(said(publish))) for _ in range(2)]
        for one in both:
            one.start()
        for one in both:
            one.join()
        for text in texts:
            assert text == "" or ("another process" in text and "\n" not in text), text
            ends["published" if text == "" else "refused"] += 1
        assert "" in texts and without_build(contents_of(index)) == expected
    return rounds, f"{ends['published']} published, {ends['refused']} refused in one line"


def clock_jumps(folder: Path, rounds: int, draw: random.Random) -> tuple[int, str]:
    """The clock jumps by up to ten years between builds: the one published last is served."""

    class Jumping(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
            return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=draw.uniform(-3650, 3650))

    index, true = folder / "index", build_files.datetime
    synthetic.publish(index, SMALL)
    client = visitor(Settings(index=index))
    build_files.datetime = Jumping  # type: ignore[misc]
    try:
        for _ in range(rounds):
            build = synthetic.publish(index, SMALL)
            assert client.get("/index.json").json()["build"] == build
            assert len(list(index.glob("*.duckdb"))) <= 2
    finally:
        build_files.datetime = true  # type: ignore[misc]
    return rounds, "each build was served at once, and the one before was kept"


def database(folder: Path, rounds: int, draw: random.Random) -> tuple[int, str]:
    """PostgreSQL stops at random moments of reads and builds: right pages or 503, whole builds or none."""
    running = postgres_server.running_server() if postgres_server.binaries() else None
    if running is None:
        raise Skipped("PostgreSQL is not installed")
    server = next(running)
    settings = Settings(index=folder, database_url=server.url(server.new_database()))
    synthetic.publish(settings, SMALL)
    client = visitor(settings)
    good = {page: without_build(client.get(page).json()) for page in PAGES}
    ends: Counter[str] = Counter()
    done = threading.Event()
    wrong: list[Any] = []

    def read() -> None:
        own, number = random.Random(0), 0
        while not done.is_set():
            page = own.choice(PAGES)
            answer = client.get(page)
            number += 1
            right = answer.status_code == 200 and without_build(answer.json()) == good[page]
            if not right and answer.status_code != 503:
                wrong.append((page, answer.status_code, answer.text[:300]))
            ends["right" if right else "503"] += 1

    def build() -> None:
        while not done.is_set():
            try:
                synthetic.publish(settings, SMALL)
                ends["builds"] += 1
            except StoreError as error:
                assert "\n" not in str(error)
                ends["refused"] += 1
            except Exception as error:
                wrong.append(repr(error))

    threads = [threading.Thread(target=act) for act in (read, build)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(rounds):
            time.sleep(draw.uniform(0.2, 2))
            server.stop()
            time.sleep(draw.uniform(0, 0.5))
            server.start()
    finally:
        done.set()
        for thread in threads:
            thread.join()
    last = synthetic.publish(settings, SMALL)
    assert not wrong, wrong[:3]
    assert client.get("/index.json").json()["build"] == last
    next(running, None)
    found = f"{ends['right']:,} right pages, {ends['503']:,} 503s, no wrong page"
    return rounds, f"{found}; {ends['builds']} builds published, {ends['refused']} refused"


def descriptors(folder: Path, rounds: int, draw: random.Random) -> tuple[int, str]:
    """Connections take every descriptor of a server: it says so to new ones, logs little, and recovers."""
    index = folder / "index"
    synthetic.publish(index, SMALL)
    port = free_port()
    log = folder / "log"
    with log.open("wb") as sink:
        server = subprocess.Popen(
            [
                "sh",
                "-c",
                f"ulimit -n 200; exec {sys.executable} -c 'import cli; cli.run()' serve --port {port}",
            ],
            env={**os.environ, "LEXISCOPE_INDEX": str(index), "LEXISCOPE_REQUEST_SECONDS": "3"},
            stderr=sink,
        )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:
            deadline, statuses = time.monotonic() + 120, Counter[str]()
            while True:
                try:
                    client.get("/healthz")
                    break
                except httpx.TransportError:
                    assert time.monotonic() < deadline
                    time.sleep(0.1)
            for _ in range(rounds):
                held = []
                for _ in range(400):
                    connection = socket.create_connection(("127.0.0.1", port), timeout=5)
                    connection.sendall(b"GET / HTTP/1.1\r\nHo")
                    held.append(connection)
                open_files = len(os.listdir(f"/proc/{server.pid}/fd"))
                assert open_files < 190, open_files
                for _ in range(200):
                    try:
                        statuses[str(client.get("/m/0-vasae/3.json").status_code)] += 1
                    except httpx.TransportError:
                        statuses["closed"] += 1
                    if statuses["200"] and client.get("/readyz").status_code == 200:
                        break
                    time.sleep(0.1)
                for connection in held:
                    connection.close()
                time.sleep(4)
                answer = client.get("/m/0-vasae/3.json")
                assert answer.status_code == 200, answer.text
            assert not set(statuses) - {"200", "503", "closed"}, statuses
    finally:
        server.terminate()
        server.wait(30)
    assert log.stat().st_size < 100_000
    return (
        rounds,
        f"400 connections on 200 descriptors: {dict(statuses)}, {log.stat().st_size:,} bytes of log",
    )


FAULTS = {
    "disk full": full_disk,
    "read-only": read_only,
    "damaged": damaged_bytes,
    "two at once": two_indexers,
    "clock": clock_jumps,
    "database": database,
    "descriptors": descriptors,
}
