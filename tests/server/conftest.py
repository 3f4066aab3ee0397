"""The synthetic index behind the application."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from lexiscope.settings import Settings
from server import create_app
from tests.store import synthetic


@pytest.fixture(scope="session")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("served")
    synthetic.publish(root)
    return root


@pytest.fixture(scope="session")
def browser(index: Path) -> Iterator[TestClient]:
    with TestClient(
        create_app(Settings(index=index)), headers={"accept": "text/html"}, follow_redirects=False
    ) as client:
        yield client
