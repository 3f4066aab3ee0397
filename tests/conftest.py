"""What every room's tests share: a tiny language model on disk and in memory, a text for it, and a trained
dictionary.
"""

from pathlib import Path

import pytest
import torch
from hypothesis import settings

from lexiscope.language_model import LanguageModel, load_language_model
from tests import tiny

torch.set_num_threads(2)
settings.register_profile("lexiscope", deadline=None)  # machines are noisy: a slow example is no wrong one
settings.load_profile("lexiscope")


@pytest.fixture(autouse=True)
def same_numbers() -> None:
    """Every test draws the same random numbers, alone or among others."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def model(model_folder: Path) -> LanguageModel:
    return load_language_model(str(model_folder))


@pytest.fixture(scope="session")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(tiny.text(6000))
    return path


@pytest.fixture(scope="session")
def runs(model: LanguageModel, text_file: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Checkpoints: `vasae` at layers 0 and 1, `plain` at layer 1."""
    from dataclasses import replace

    from rich.console import Console

    import trainer

    small = {"k": 4, "batch": 256, "learning_rate": 3e-3}
    plan = trainer.Plan(
        sources=[str(text_file)],
        runs=[
            (replace(trainer.recipe("vasae"), dense_rank=2, **small), [0, 1]),
            (replace(trainer.recipe("plain"), **small), [1]),
        ],
        out=tmp_path_factory.mktemp("runs"),
        tokens=5000,
        seen=20_000,
        eval_tokens=600,
        length=48,
    )
    return trainer.train(model, plan, console=Console(quiet=True))
