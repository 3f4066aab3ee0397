"""A throw-away PostgreSQL of Debian's package: made in a temporary folder, reached by a socket there and by a
free port.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql

from tests.smoke import free_port

PASSWORD = "s3cret"


def binaries() -> Path | None:
    """The newest installed server's programs."""
    versions = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    found = sorted((path.parent for path in versions), key=lambda path: int(path.parent.name))
    if found:
        return found[-1]
    there = shutil.which("initdb")
    return Path(there).resolve().parent if there else None


class Server:
    """One cluster, its data kept over stops and starts."""

    def __init__(self, programs: Path) -> None:
        self._programs = programs
        self._folder = Path(mkdtemp(prefix="lexiscope-pg-"))
        self.port = free_port()
        self._as_owner: list[str] = []
        if os.getuid() == 0:  # PostgreSQL refuses to run as root
            shutil.chown(self._folder, "postgres")
            self._as_owner = ["runuser", "-u", "postgres", "--"]
        (self._folder / "password").write_text(PASSWORD)
        (self._folder / "password").chmod(0o644)
        options = [
            "-U",
            "lexiscope",
            "--auth=scram-sha-256",
            f"--pwfile={self._folder}/password",
            "-E",
            "UTF8",
            "--locale=C.UTF-8",
            "-N",
        ]
        self._run("initdb", "-D", str(self._data), *options)
        self.start()

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [*self._as_owner, str(self._programs / program), *arguments],
            check=True,
            capture_output=True,
            cwd="/",
        )

    def start(self) -> None:
        settings = (
            f"-p {self.port} -k {self._folder} -c listen_addresses=127.0.0.1"
            " -c fsync=off -c full_page_writes=off -c shared_buffers=128MB"
        )
        self._run("pg_ctl", "-D", str(self._data), "-w", "-l", f"{self._folder}/log", "-o", settings, "start")

    def stop(self) -> None:
        """At once: connections break off as if the machine had gone."""
        self._run("pg_ctl", "-D", str(self._data), "-w", "-m", "immediate", "stop")

    def close(self) -> None:
        if (self._data / "postmaster.pid").exists():
            self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def url(self, database: str, *, password: str = PASSWORD) -> str:
        return f"postgresql+psycopg://lexiscope:{password}@127.0.0.1:{self.port}/{database}"

    @contextmanager
    def connect(self, database: str = "postgres") -> Iterator[psycopg.Connection]:
        with psycopg.connect(self.url(database).replace("+psycopg", ""), autocommit=True) as connection:
            yield connection

    def new_database(self) -> str:
        """The name of an empty database."""
        name = f"index_{uuid4().hex[:12]}"
        with self.connect() as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return name


def running_server() -> Iterator[Server]:
    """For a fixture: a server to the end of its scope, or a skip that says what is missing."""
    programs = binaries()
    if programs is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    running = Server(programs)
    yield running
    running.close()
