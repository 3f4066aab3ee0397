"""What all tests rely on: settings of their own, folders that are made once, marks."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lexiscope.settings import ROOT, Settings
from tests.environment import FOLDER


def test_tests_take_no_setting_from_the_shell() -> None:
    given = {"DATABASE_URL": "postgresql://alice:s3cret@db/x", "INDEX": "/srv/index", "WORKR_QUEUE": "4"}
    shell = {f"LEXISCOPE_{name}": value for name, value in given.items()}
    shown = "import tests.environment, lexiscope.settings as s; print(s.Settings().model_dump_json())"
    done = subprocess.run(
        [sys.executable, "-c", shown], cwd=ROOT, env=os.environ | shell, capture_output=True, check=True
    )
    there = Settings.model_validate_json(done.stdout)
    assert there.database_url == ""
    for settings in (there, Settings()):
        for name, field in Settings.model_fields.items():
            if isinstance(field.default, Path):
                assert getattr(settings, name) == Path(os.environ[FOLDER]) / name, name


def test_a_folder_whose_making_failed_is_made_by_the_next(
    make_once: Callable[[str, Callable[[Path], object]], Path],
) -> None:
    def fails(folder: Path) -> None:
        (folder / "half").touch()
        raise OSError

    with pytest.raises(OSError):
        make_once("failed", fails)
    made = make_once("failed", lambda folder: (folder / "whole").touch())
    assert [path.name for path in made.iterdir()] == ["whole"]
    assert make_once("failed", fails) == made


@pytest.fixture
def client() -> None:
    """Named as the one of tests/live, which starts a model worker."""


@pytest.fixture
def worker(starts_worker: None) -> None:
    """Starts none, but is marked as if it did."""


@pytest.fixture
def asks(worker: None) -> None:
    """Needs it at one remove."""


def marks(request: pytest.FixtureRequest) -> set[str]:
    return {mark.name for mark in request.node.iter_markers()} & {"browser", "postgres", "slow"}


@pytest.mark.usefixtures("client")
def test_a_fixture_is_not_slow_by_its_name(request: pytest.FixtureRequest) -> None:
    assert marks(request) == set()


@pytest.mark.usefixtures("asks")
def test_what_needs_a_worker_is_slow(request: pytest.FixtureRequest) -> None:
    assert marks(request) == {"slow"}
