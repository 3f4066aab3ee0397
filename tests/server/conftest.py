"""The synthetic index behind the application."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from lexiscope.settings import Settings
from server import create_app
from server.dependencies import open_worker
from server.live import WorkerClient
from tests.store import synthetic

NO_WORKER = "http://127.0.0.1:9"
"""where nothing listens: these tests start no worker"""


@pytest.fixture(scope="session")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("served")
    synthetic.publish(root)
    return root


@pytest.fixture(scope="session")
def browser(index: Path) -> Iterator[TestClient]:
    app = create_app(Settings(index=index))
    app.dependency_overrides[open_worker] = lambda: WorkerClient(NO_WORKER)
    with TestClient(app, headers={"accept": "text/html"}, follow_redirects=False) as client:
        yield client
