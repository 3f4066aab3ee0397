"""The usual synthetic index, published once a session and opened for reading."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from lexiscope.settings import Settings
from store import Store
from tests.store import synthetic


@pytest.fixture(scope="session")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("index")
    synthetic.publish(root)
    return root


@pytest.fixture(scope="session")
def store(index: Path) -> Iterator[Store]:
    opened = Store(Settings(index=index))
    yield opened
    opened.close()
