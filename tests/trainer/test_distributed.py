"""Several processes: two ranks under torchrun train what one process trains."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

import trainer
from lexiscope.checkpoint import load_checkpoint
from lexiscope.language_model import LanguageModel
from trainer.distributed import Ranks
from trainer.errors import RecipeError

SIZES = "--layers 0,1 --tokens 4100 --seen 61440 --eval-tokens 100 --k 4 --length 48".split()


def start(model_folder: Path, text_file: Path, out: Path, *more: str, ranks: int = 1) -> None:
    launcher = (
        ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)] if ranks > 1 else []
    )
    command = [
        sys.executable,
        *launcher,
        "-m",
        "trainer",
        str(model_folder),
        "--text",
        str(text_file),
        "--out",
        str(out),
        *SIZES,
        *more,
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    root = Path(__file__).parents[2]
    done = subprocess.run(
        command, env=environment, cwd=root, capture_output=True, text=True, check=False, timeout=280
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def alone(model_folder: Path, text_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("alone")
    start(model_folder, text_file, out)
    return out / "tiny"


@pytest.mark.torchrun
def test_two_ranks_that_split_the_tokens_train_what_one_process_trains(
    alone: Path, model_folder: Path, text_file: Path, tmp_path: Path
) -> None:
    start(model_folder, text_file, tmp_path, "--cache", str(tmp_path / "cache"), ranks=2)
    for name in ("0-vasae", "1-vasae"):
        one, two = load_checkpoint(alone / name), load_checkpoint(tmp_path / "tiny" / name)
        assert torch.allclose(one.dictionary.directions, two.dictionary.directions, atol=2e-2)
        assert one.metrics["fve"] == pytest.approx(two.metrics["fve"], abs=2e-3)
        assert one.fit is not None and two.fit is not None
        assert torch.equal(one.fit.assigned, two.fit.assigned)
    assert sorted(path.name for path in (tmp_path / "tiny").iterdir()) == ["0-vasae", "1-vasae"]


@pytest.mark.torchrun
def test_two_ranks_that_split_the_layers_train_exactly_what_one_process_trains(
    alone: Path, model_folder: Path, text_file: Path, tmp_path: Path
) -> None:
    start(model_folder, text_file, tmp_path, "--layers-over-ranks", ranks=2)
    for name in ("0-vasae", "1-vasae"):
        one, two = load_checkpoint(alone / name), load_checkpoint(tmp_path / "tiny" / name)
        assert torch.equal(one.dictionary.W_enc, two.dictionary.W_enc)


def test_a_batch_that_does_not_divide_by_the_ranks_is_refused(
    model: LanguageModel, text_file: Path, tmp_path: Path
) -> None:
    recipe = replace(trainer.recipe("plain"), k=4, batch=64)
    plan = trainer.Plan([str(text_file)], [(recipe, [0])], tmp_path / "out", 1000, 1000, 100, length=48)
    with pytest.raises(RecipeError, match="64 tokens does not divide by 3 ranks"):
        trainer.train(model, plan, console=Console(quiet=True), ranks=Ranks(0, 3))
    assert not (tmp_path / "out").exists()
