"""What all tests share: a tiny language model on disk and in memory, a text for it, and a trained
dictionary.

Tests run in several processes (pytest-xdist), each with one torch thread: the tensors are small, and threads
that wait for each other would take the time of the other processes. Commands started by tests inherit that.
"""

import os

import tests.environment  # noqa: F401  (before Lexiscope, which reads it)

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["LEXISCOPE_PRECISION"] = "float32"  # tests compare with slow computations, on any CPU
os.environ["LEXISCOPE_ALLOWED_HOSTS"] = "testserver,test"  # how in-process clients call the application

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from lexiscope import files
from lexiscope.language_model import LanguageModel, load_language_model
from tests import tiny

torch.set_num_threads(1)
settings.register_profile("lexiscope", deadline=None)  # machines are noisy: a slow example is no wrong one
settings.load_profile("lexiscope")

MakeOnce = Callable[[str, Callable[[Path], object]], Path]


MARKS = {"chromium": "browser", "starts_postgres": "postgres", "starts_worker": "slow"}
"""Fixture → the mark of the tests that need it, by themselves or through other fixtures."""


@pytest.fixture(scope="session")
def starts_postgres() -> None:
    """Taken by fixtures that start a PostgreSQL server."""


@pytest.fixture(scope="session")
def starts_worker() -> None:
    """Taken by fixtures that start a model worker: a process, which imports torch."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by the fixtures and parameters that they need."""
    for item in items:
        for fixture in MARKS.keys() & set(getattr(item, "fixturenames", ())):
            item.add_marker(MARKS[fixture])
        parameters = getattr(getattr(item, "callspec", None), "params", {})
        if "postgres" in parameters.values():
            item.add_marker("postgres")


@pytest.fixture(autouse=True)
def same_numbers() -> None:
    """Every test draws the same random numbers, alone or among others."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def make_once(tmp_path_factory: pytest.TempPathFactory) -> MakeOnce:
    """`make_once(name, make)`: a folder that `make` fills once, in whichever test process needs it first."""
    own = tmp_path_factory.getbasetemp()
    root = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own

    def folder(name: str, make: Callable[[Path], object]) -> Path:
        place, done = root / name, root / f"{name}.done"
        with files.lock(root / f"{name}.lock", wait=True):
            if not done.exists():
                shutil.rmtree(place, ignore_errors=True)  # what a `make` that failed has left
                place.mkdir()
                make(place)
                done.touch()
        return place

    return folder


@pytest.fixture(scope="session")
def model_folder(make_once: MakeOnce) -> Path:
    return make_once("models", lambda folder: tiny.make_model(folder / "tiny")) / "tiny"


@pytest.fixture(scope="session")
def model(model_folder: Path) -> LanguageModel:
    return load_language_model(str(model_folder))


@pytest.fixture(scope="session")
def text_file(make_once: MakeOnce) -> Path:
    return make_once("text", lambda folder: (folder / "text.txt").write_text(tiny.text(6000))) / "text.txt"


@pytest.fixture(scope="session")
def runs(model: LanguageModel, text_file: Path, make_once: MakeOnce) -> list[Path]:
    """Checkpoints: `vasae` (with a token look-up) at layers 0 and 1, `plain` at layer 1."""
    from dataclasses import replace

    from rich.console import Console

    import trainer

    small = {"k": 4, "batch": 256, "learning_rate": 3e-3}

    def train(folder: Path) -> None:
        plan = trainer.Plan(
            sources=[str(text_file)],
            runs=[
                (replace(trainer.recipe("vasae"), dense_rank=2, **small), [0, 1]),
                (replace(trainer.recipe("plain"), **small), [1]),
            ],
            out=folder,
            tokens=5000,
            seen=20_000,
            eval_tokens=600,
            length=48,
        )
        trainer.train(model, plan, console=Console(quiet=True))

    folder = make_once("runs", train) / model.id
    return [folder / name for name in ("0-vasae", "1-vasae", "1-plain")]
