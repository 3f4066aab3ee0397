"""Resume: a run that is killed anywhere goes on to the very weights it would have had, and only with the plan
it was started with.
"""

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

import trainer
from lexiscope.checkpoint import load_checkpoint
from lexiscope.errors import CheckpointError
from lexiscope.language_model import LanguageModel
from tests.trainer.test_activations import full_disk
from trainer.__main__ import main
from trainer.activations.harvest import HarvestError
from trainer.activations.passages import TrainingBatch
from trainer.architectures.base import Gradients, Step
from trainer.architectures.topk import TopKArchitecture
from trainer.evaluation import Measured
from trainer.snapshot import UnfinishedRun

QUIET = Console(quiet=True)


def plan(text: Path, out: Path, **changes: Any) -> trainer.Plan:
    recipes = [replace(trainer.recipe(name), k=4, batch=64) for name in ("vasae", "plain")]
    runs = [(recipes[0], [0, 1]), (recipes[1], [1])]
    return trainer.Plan([str(text)], runs, out, 1000, 10_000, 100, length=48, snapshot_every=0)._replace(
        **changes
    )


def weights(path: Path) -> list[torch.Tensor]:
    found = load_checkpoint(path)
    assert found.fit is not None
    d = found.dictionary
    return [
        t
        for t in (d.W_enc, d.b_enc, d.W_dec, d.b_dec, d.dense_in, d.dense_out, found.fit.assigned)
        if t is not None
    ]


def same(paths: Sequence[Path], others: Sequence[Path]) -> bool:
    return all(
        torch.equal(a, b)
        for p, q in zip(paths, others, strict=True)
        for a, b in zip(weights(p), weights(q), strict=True)
    )


class Interrupted(Exception):
    pass


def interrupt(monkeypatch: pytest.MonkeyPatch, *, after: int | None) -> list[int]:
    """Training ends in an error right after its `after`-th snapshot; never, if that is None. The steps of the
    snapshots, as they are taken.
    """
    save, saved = UnfinishedRun.save, list[int]()

    def counted(self: UnfinishedRun, state: dict[str, Any]) -> None:
        save(self, state)
        saved.append(state["step"])
        if len(saved) == after:
            raise Interrupted

    monkeypatch.setattr(UnfinishedRun, "save", counted)
    return saved


@pytest.mark.slow
@pytest.mark.parametrize("buffer", [None, 300])
def test_a_run_that_is_interrupted_again_and_again_ends_with_the_same_weights(
    model: LanguageModel, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, buffer: int | None
) -> None:
    whole = trainer.train(model, plan(text_file, tmp_path / "whole", buffer=buffer), console=QUIET)
    parts = plan(
        text_file, tmp_path / "parts", buffer=buffer, resume=True
    )  # --resume with nothing to resume starts
    for after in (3, 10, 20):
        with monkeypatch.context() as patched, pytest.raises(Interrupted):
            interrupt(patched, after=after)
            trainer.train(model, parts, console=QUIET)
    resumed = trainer.train(model, parts, console=QUIET)
    assert same(whole, resumed)
    for one, other in zip(whole, resumed, strict=True):
        lines = [
            [json.loads(line) for line in (path / "train.jsonl").read_text().splitlines()]
            for path in (one, other)
        ]
        assert [(line["step"], line["loss"], line["live"]) for line in lines[0]] == [
            (line["step"], line["loss"], line["live"]) for line in lines[1]
        ]
    assert {path.name for path in (tmp_path / "parts" / model.id).iterdir()} == {
        path.name for path in resumed
    }


KILLED = """
import os, signal, sys
from trainer.__main__ import main
from trainer.evaluation import Measured
from trainer.snapshot import UnfinishedRun
save, last = UnfinishedRun.save, int(sys.argv[1])
def killed(self, state):
    save(self, state)
    if state["step"] >= last:
        os.kill(os.getpid(), signal.SIGKILL)
UnfinishedRun.save = killed
main(sys.argv[2:], prog="trainer")
"""


@pytest.mark.slow
def test_a_process_that_is_killed_goes_on_to_the_same_weights(
    model_folder: Path, text_file: Path, tmp_path: Path
) -> None:
    def command(out: str) -> list[str]:
        sizes = (
            "--layers 1 --tokens 4100 --seen 120000 --eval-tokens 100 --k 4 --length 48 --snapshot-every 0"
        )
        where = [str(model_folder), "--text", str(text_file), "--out", str(tmp_path / out)]
        return [*where, *sizes.split(), "--resume"]

    for step in (10, 20):
        program = [sys.executable, "-c", KILLED, str(step), *command("killed")]
        process = subprocess.run(program, capture_output=True, check=False, cwd=Path(__file__).parents[2])
        assert process.returncode == -signal.SIGKILL, process.stderr.decode()
        assert (tmp_path / "killed" / "tiny" / ".1-vasae.unfinished" / "snapshot.pt").is_file()
    for out in ("killed", "whole"):
        with pytest.raises(SystemExit) as ended:
            main(command(out), prog="trainer")
        assert not ended.value.code
    assert same([tmp_path / "killed" / "tiny" / "1-vasae"], [tmp_path / "whole" / "tiny" / "1-vasae"])
    assert [path.name for path in (tmp_path / "killed" / "tiny").iterdir()] == ["1-vasae"]


@pytest.fixture
def unfinished(
    model: LanguageModel, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> trainer.Plan:
    """The plan of a run that was interrupted in its second dictionary."""
    asked = plan(text_file, tmp_path)
    with monkeypatch.context() as patched, pytest.raises(Interrupted):
        interrupt(patched, after=20)
        trainer.train(model, asked, console=QUIET)
    return asked


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_unfinished_run_is_kept_unless_it_is_resumed_with_its_own_plan(
    unfinished: trainer.Plan, model: LanguageModel, text_file: Path, tmp_path: Path
) -> None:
    before = contents(tmp_path)
    with pytest.raises(CheckpointError, match=r"unfinished run.*--resume"):
        trainer.train(model, unfinished, console=QUIET)
    other_text = tmp_path.parent / f"{tmp_path.name}.txt"
    other_text.write_text(text_file.read_text() + "the cat sat on a mat")
    recipe, layers = unfinished.runs[0]
    others: list[tuple[str, dict[str, Any]]] = [
        ("seed was 0, is 1", {"seed": 1}),
        ("text was", {"sources": [str(other_text)]}),
        ("recipe was", {"runs": [(replace(recipe, learning_rate=0.1), layers)]}),
        ("tokens was 1000, is 900", {"tokens": 900}),
        ("width was", {"width": 300}),
    ]
    for says, changes in others:
        with pytest.raises(CheckpointError, match=f"another plan.*{says}"):
            trainer.train(model, unfinished._replace(resume=True, **changes), console=QUIET)
    assert contents(tmp_path) == before


def test_a_run_that_was_begun_before_a_recipe_had_some_field_is_resumed(
    unfinished: trainer.Plan, model: LanguageModel
) -> None:
    folder = unfinished.out / model.id / ".0-vasae.unfinished"
    written = (folder / "plan.json").read_text()

    def older(field: str) -> None:
        plan = json.loads(written)
        del plan["recipe"][field]
        (folder / "plan.json").write_text(json.dumps(plan))

    older("k")  # which is 4 here, and 32 by default
    with pytest.raises(CheckpointError, match="another plan"):
        trainer.train(model, unfinished._replace(resume=True), console=QUIET)
    older("aux_k")
    trainer.train(model, unfinished._replace(resume=True), console=QUIET)


def test_what_is_finished_is_not_trained_again(
    unfinished: trainer.Plan, model: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = tmp_path / model.id / ".0-vasae.unfinished" / "checkpoint" / "sae_weights.safetensors"
    before = trained.stat().st_mtime_ns
    paths = trainer.train(model, unfinished._replace(resume=True), console=QUIET)
    assert (paths[0] / "sae_weights.safetensors").stat().st_mtime_ns == before
    again = trainer.train(model, unfinished._replace(resume=True), console=QUIET)
    assert again == paths and (paths[0] / "sae_weights.safetensors").stat().st_mtime_ns == before
    with pytest.raises(CheckpointError, match="already holds a run"):
        trainer.train(model, unfinished, console=QUIET)
    with pytest.raises(CheckpointError, match=r"another plan.*seed"):
        trainer.train(model, unfinished._replace(resume=True, seed=2), console=QUIET)


def test_a_damaged_snapshot_is_refused_and_two_processes_do_not_share_a_run(
    unfinished: trainer.Plan, model: LanguageModel
) -> None:
    folder = unfinished.out / model.id / ".1-vasae.unfinished"
    again = unfinished._replace(resume=True)
    held = UnfinishedRun(folder.with_name("1-vasae"), json.loads((folder / "plan.json").read_text()))
    held.open()
    with pytest.raises(CheckpointError, match="Another process"):
        trainer.train(model, again, console=QUIET)
    held.close()
    (folder / "snapshot.pt").write_bytes((folder / "snapshot.pt").read_bytes()[:2000])
    with pytest.raises(CheckpointError, match="damaged"):
        trainer.train(model, again, console=QUIET)


def test_a_disk_that_fills_up_keeps_the_last_snapshot(tmp_path: Path) -> None:
    run = UnfinishedRun(tmp_path / "0-vasae", {"seed": 0})
    run.open()
    run.save({"step": 1, "weights": torch.zeros(10)})
    with full_disk(), pytest.raises(CheckpointError, match=r"could not be written.*What was trained is kept"):
        run.save({"step": 2, "weights": torch.zeros(100_000)})
    state = run.load()
    assert state is not None and state["step"] == 1


def test_a_disk_that_fills_up_in_the_evaluation_leaves_a_run_that_resumes(tmp_path: Path) -> None:
    run = UnfinishedRun(tmp_path / "0-vasae", {"seed": 0})
    run.open()
    trained = run.folder / "checkpoint"
    trained.mkdir()
    run.log.write_text("{}\n")
    measured = Measured({"figures": list(range(1000))}, {"names": torch.zeros(10)})
    for size in (0, 1000):
        with full_disk(size), pytest.raises(CheckpointError, match="What was trained is kept"):
            run.publish(measured)
        assert list(trained.iterdir()) == [], "no half of a file"
    run.publish(measured)
    assert {path.name for path in run.destination.iterdir()} == {
        *("metrics.json", "evidence.safetensors", "train.jsonl")
    }


def test_a_run_is_not_resumed_in_another_precision(
    model: LanguageModel, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = plan(text_file, tmp_path, runs=[(replace(trainer.recipe("plain"), k=4, batch=64), [1])])
    with monkeypatch.context() as patched, pytest.raises(Interrupted):
        interrupt(patched, after=2)
        trainer.train(model, asked, console=QUIET)
    asked = asked._replace(resume=True)
    with monkeypatch.context() as patched:
        patched.setenv("LEXISCOPE_PRECISION", "bfloat16")
        with pytest.raises(CheckpointError, match=r"trained in float32.*LEXISCOPE_PRECISION=float32"):
            trainer.train(model, asked, console=QUIET)
    (path,) = trainer.train(model, asked, console=QUIET)
    assert load_checkpoint(path).details["tokens_seen"] > 0


def test_an_error_before_the_first_snapshot_leaves_nothing(
    model: LanguageModel, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with full_disk(), pytest.raises(HarvestError):
        trainer.train(model, plan(text_file, tmp_path / "out"), console=QUIET)
    assert list((tmp_path / "out" / model.id).iterdir()) == []


def test_a_run_whose_loss_is_not_finite_keeps_its_last_snapshot_and_says_what_to_try(
    model: LanguageModel, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = TopKArchitecture.gradients

    def broken(self: TopKArchitecture, batch: TrainingBatch, step: Step) -> Gradients:
        made = real(self, batch, step)
        factor = float("nan") if step.number == 33 else 1.0
        return made._replace(losses={"mse": made.losses["mse"] * factor})

    runs = [(replace(trainer.recipe("plain"), k=4, batch=64), [1])]
    asked = plan(text_file, tmp_path, runs=runs)
    with monkeypatch.context() as patched:
        patched.setattr(TopKArchitecture, "gradients", broken)
        with pytest.raises(
            trainer.TrainingDiverged, match=r"layer 1 plain: .* step 33 .*snapshot of step 30"
        ):
            trainer.train(model, asked, console=QUIET)
    (path,) = trainer.train(model, asked._replace(resume=True), console=QUIET)
    assert all(tensor.isfinite().all() for tensor in weights(path))
    with monkeypatch.context() as patched:
        patched.setattr(TopKArchitecture, "gradients", broken)
        with pytest.raises(trainer.TrainingDiverged, match="no snapshot yet, and nothing is kept"):
            trainer.train(model, asked._replace(snapshot_every=1e9, out=tmp_path / "b"), console=QUIET)
    assert not list((tmp_path / "b" / model.id).iterdir())
