"""A run writes whole checkpoints or nothing, and refuses what cannot be trained before any time is spent."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

import trainer
from lexiscope.checkpoint import load_checkpoint
from lexiscope.errors import CheckpointError, LexiscopeError, ModelError, TextError
from lexiscope.language_model import LanguageModel
from lexiscope.measures import RUN
from lexiscope.text import passages
from tests import tiny
from trainer.__main__ import main
from trainer.evaluation import Candidate, measure
from trainer.logs import LOGGERS
from trainer.plan import training_passages

QUIET = Console(quiet=True)
SMALL = {"k": 4, "batch": 64}


def test_a_run_writes_its_checkpoint_and_reloading_it_reproduces_its_metrics(
    runs: list[Path], model: LanguageModel, text_file: Path
) -> None:
    assert [path.name for path in runs] == ["0-vasae", "1-vasae", "1-plain"]
    found = load_checkpoint(runs[0])
    assert found.details["recipe"] == "vasae" and found.details["tokens_seen"] > 0
    lines = [json.loads(line) for line in (runs[0] / "train.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] > lines[0]["step"] and "loss" in lines[0]
    held_out = [p for i, p in enumerate(passages(model, [str(text_file)], length=48)) if i % 10 == 9]
    short, kept = 600, []
    for passage in held_out:
        if short > 0:
            kept.append(passage)
            short -= len(passage) - 1
    assert found.fit is not None
    again = measure(model, [Candidate(0, found.dictionary, found.fit, 0)], kept)[0].metrics
    for key, value in found.metrics.items():
        if isinstance(value, float):
            assert again[key] == pytest.approx(value, rel=1e-3, abs=2e-3), key


def test_metrics_hold_the_measures_of_a_run_and_shares_are_shares(runs: list[Path]) -> None:
    chances = {each.chance for each in RUN.values() if each.chance}
    for path in runs:
        metrics = json.loads((path / "metrics.json").read_text())
        assert {key for key in metrics if not key.startswith("named_")} == {*RUN, *chances}
        for each in RUN.values():
            value = metrics[each.name]  # null: a share of nothing
            assert each.unit != "share" or value is None or 0 <= value <= 1, each.name
        assert metrics["delta_ce_ci"][0] <= metrics["delta_ce"] <= metrics["delta_ce_ci"][1]
    shares = [json.loads((path / "metrics.json").read_text())["lookup_share"] for path in runs]
    assert shares[0] > 0.1 and shares[2] == 0, "vasae has a look-up, plain has none"


def plan(text: Path, out: Path, **changes: object) -> trainer.Plan:
    base = trainer.Plan(
        [str(text)], [(replace(trainer.recipe("vasae"), **SMALL), [0])], out, 1000, 1000, 100, length=48
    )
    return base._replace(**changes)


def test_an_existing_run_is_refused_before_any_time_is_spent(
    model: LanguageModel, text_file: Path, tmp_path: Path
) -> None:
    there = tmp_path / model.id / "0-vasae"
    there.mkdir(parents=True)
    (there / "cfg.json").write_text("{}")
    with pytest.raises(CheckpointError, match="already holds a run"):
        trainer.train(model, plan(text_file, tmp_path), console=QUIET)
    assert (there / "cfg.json").read_text() == "{}"


def test_a_layer_that_does_not_exist_a_k_too_large_and_an_unknown_recipe_are_refused(
    model: LanguageModel, text_file: Path, tmp_path: Path
) -> None:
    recipe = replace(trainer.recipe("vasae"), **SMALL)
    with pytest.raises(ModelError, match="no layer 9"):
        trainer.train(model, plan(text_file, tmp_path, runs=[(recipe, [9])]), console=QUIET)
    with pytest.raises(LexiscopeError, match="k is 4"):
        trainer.train(model, plan(text_file, tmp_path, width=3), console=QUIET)
    with pytest.raises(LexiscopeError, match="no recipe 'best'"):
        trainer.recipe("best")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("--recipe e2e --set batch_of=tokens", "needs whole passages"),
        ("--recipe g-sae --set batch_of=tokens", "needs whole passages"),
        ("--recipe matched --set batch_of=passages --set terms=kl:1 --transcoder", "patch a residual stream"),
        ("--recipe paper-hard --set terms=orthogonality:1", "freezes the decoder"),
        ("--recipe itda --set lookup=trained", "no gradients"),
    ],
)
def test_a_recipe_that_can_never_train_is_refused_before_anything_is_written(
    arguments: str, says: str, model_folder: Path, text_file: Path, tmp_path: Path
) -> None:
    given = [str(model_folder), "--text", str(text_file), "--layers", "0", "--out", str(tmp_path)]
    with pytest.raises(LexiscopeError, match=says):
        main([*given, *arguments.split()], prog="train")
    assert list(tmp_path.iterdir()) == []


def test_no_more_tokens_are_distinct_than_were_trained_on(
    model: LanguageModel, text_file: Path, tmp_path: Path
) -> None:
    (path,) = trainer.train(model, plan(text_file, tmp_path, tokens=1000, seen=128), console=QUIET)
    details = load_checkpoint(path).details
    assert details["tokens_distinct"] == details["tokens_seen"] == 128


def test_restarts_of_a_recipe_that_knows_none_are_refused_before_any_time_is_spent(
    model: LanguageModel, text_file: Path, tmp_path: Path
) -> None:
    recipe = replace(trainer.recipe("paper-plain"), restarts=3)
    with pytest.raises(LexiscopeError, match="paper-plain cannot restart features"):
        trainer.train(model, plan(text_file, tmp_path, runs=[(recipe, [0])]), console=QUIET)
    assert list(tmp_path.iterdir()) == []


def test_two_recipes_under_one_set_name_are_refused_before_any_time_is_spent(
    model: LanguageModel, text_file: Path, tmp_path: Path
) -> None:
    runs = [(replace(trainer.recipe(name), **SMALL), [0]) for name in ("vasae", "plain")]
    with pytest.raises(LexiscopeError, match="one folder"):
        trainer.train(model, plan(text_file, tmp_path, runs=runs, set_name="x"), console=QUIET)
    assert list(tmp_path.iterdir()) == []


def test_a_text_too_short_to_hold_a_passage_out_is_refused(model: LanguageModel, tmp_path: Path) -> None:
    (tmp_path / "few.txt").write_text("the cat sat on a mat and then one dog ran to Paris while rain fell")
    with pytest.raises(TextError, match="too few"):
        trainer.train(model, plan(tmp_path / "few.txt", tmp_path / "out"), console=QUIET)
    assert not (tmp_path / "out").exists()


def test_a_logger_that_is_not_there_is_refused_before_any_time_is_spent(
    model: LanguageModel, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LOGGERS, "tensorboard", "no_such_package")
    for name, says in (("tensorboard", "not installed: pip install"), ("paper", "no logger 'paper'")):
        with pytest.raises(LexiscopeError, match=says):
            trainer.train(model, plan(text_file, tmp_path / "out", log=name), console=QUIET)
    assert not (tmp_path / "out").exists()


def test_a_text_of_its_own_is_held_out_whole_and_never_trained_on(
    model: LanguageModel, text_file: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.txt"
    other.write_text(tiny.text(400, seed=5))
    asked = plan(text_file, tmp_path / "out", held_out=[str(other)], eval_tokens=10_000)
    (path,) = trainer.train(model, asked, console=QUIET)
    measured = load_checkpoint(path).metrics["tokens"]
    assert measured == sum(len(passage) - 1 for passage in passages(model, [str(other)], length=48))
    with pytest.raises(TextError, match="both to train on and to hold out"):
        trainer.train(model, asked._replace(held_out=[str(text_file)], set_name="b"), console=QUIET)
    every = [len(passage) for passage in training_passages(model, asked._replace(held_out=(), tokens=10**6))]
    whole = [len(passage) for passage in passages(model, [str(text_file)], length=48)]
    assert every == [n for i, n in enumerate(whole) if i % 10 != 9]
