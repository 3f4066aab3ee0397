"""Every claim about the store is made of both databases: a folder of DuckDB files, and a throw-away
PostgreSQL.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from lexiscope.settings import Settings
from store import Store
from tests.store import synthetic
from tests.store.postgres_server import Server, running_server

DATABASES = ("duckdb", "postgres")


@pytest.fixture(scope="session")
def server(starts_postgres: None) -> Iterator[Server]:
    yield from running_server()


@pytest.fixture(params=DATABASES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """An empty place for an index."""
    if request.param == "duckdb":
        return Settings(index=tmp_path)
    running: Server = request.getfixturevalue("server")
    return Settings(index=tmp_path, database_url=running.url(running.new_database()))


@pytest.fixture(scope="session", params=DATABASES)
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """The usual synthetic index, published once a session and opened for reading."""
    settings = Settings(index=tmp_path_factory.mktemp("index"))
    if request.param == "postgres":
        running: Server = request.getfixturevalue("server")
        settings = settings.model_copy(update={"database_url": running.url(running.new_database())})
    synthetic.publish(settings)
    opened = Store(settings)
    yield opened
    opened.close()
