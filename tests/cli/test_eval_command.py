"""`lexiscope eval` reproduces what training recorded, and says so when it cannot be the same checkpoint,
model or hook point.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from cli.evaluate_command import (
    Evaluated,
    EvaluationRequest,
    differences,
    evaluate_runs,
    names_of,
    table,
    write,
)
from lexiscope.checkpoint import METRICS, load_checkpoint
from lexiscope.errors import CheckpointError
from lexiscope.language_model import LanguageModel
from tests.cli.commands import lexiscope
from trainer.evaluation import Measured

QUIET = Console(quiet=True)


def test_runs_evaluated_on_their_training_text_reproduce_their_metrics(
    runs: list[Path], text_file: Path
) -> None:
    found = evaluate_runs(runs, EvaluationRequest([str(text_file)]), console=QUIET)
    assert [each.checkpoint.path for each in found] == runs
    for each in found:
        assert each.warnings == []
        for key, value in each.checkpoint.metrics.items():
            if isinstance(value, float):
                assert each.measured.metrics[key] == pytest.approx(value, rel=1e-3, abs=2e-3), key
    pairs = (found[0].measured.metrics["passage_delta_ce"], found[0].checkpoint.metrics["passage_delta_ce"])
    assert torch.allclose(*(torch.tensor(pair) for pair in pairs), atol=1e-2)


def test_a_run_that_held_out_other_passages_of_its_text_is_refused_on_it(copy: Path, text_file: Path) -> None:
    edit(copy / "cfg.json", lambda c: c["metadata"]["lexiscope"]["plan"].update(held_out="every 7th passage"))
    with pytest.raises(CheckpointError, match=r"but for every 7th passage.*Give a text of its own"):
        evaluate_runs([copy], EvaluationRequest([str(text_file)]), console=QUIET)


@pytest.fixture
def copy(runs: list[Path], tmp_path: Path) -> Path:
    """A checkpoint to tamper with."""
    return Path(shutil.copytree(runs[0], tmp_path / "tiny" / "0-vasae"))


def edit(path: Path, change: object) -> None:
    found = json.loads(path.read_text())
    change(found)  # type: ignore[operator]
    path.write_text(json.dumps(found))


def at_layer_1(config: dict) -> None:
    config["metadata"]["hook_name"] = "blocks.1.hook_resid_post"
    config["metadata"]["lexiscope"]["layer"] = 1


def test_a_checkpoint_at_the_wrong_layer_is_flagged_and_not_written(
    copy: Path, text_file: Path, tmp_path: Path
) -> None:
    edit(copy / "cfg.json", at_layer_1)
    before = (copy / METRICS).read_text()
    result = lexiscope(
        "eval",
        str(copy),
        "--text",
        str(text_file),
        "--write",
        "--out",
        str(tmp_path / "out.json"),
        work=tmp_path,
    )
    assert result.returncode == 1
    assert "WARNING" in result.stderr and "FVE" in result.stderr and "Traceback" not in result.stderr
    assert (copy / METRICS).read_text() == before and not (tmp_path / "out.json").exists()
    forced = lexiscope(
        "eval",
        str(copy),
        "--text",
        str(text_file),
        "--write",
        "--force",
        "--out",
        str(tmp_path / "out.json"),
        work=tmp_path,
    )
    assert forced.returncode == 0, forced.stderr
    assert (copy / METRICS).read_text() != before and (copy / "evidence.safetensors").is_file()
    assert list(json.loads((tmp_path / "out.json").read_text())) == ["tiny/0-vasae"]


def test_a_checkpoint_at_the_wrong_scale_is_flagged(copy: Path, text_file: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(copy / "sae_weights.safetensors")
    tensors["W_dec"] = tensors["W_dec"] * 3
    save_file(tensors, copy / "sae_weights.safetensors")
    (found,) = evaluate_runs([copy], EvaluationRequest([str(text_file)]), console=QUIET)
    assert any("FVE" in warning for warning in found.warnings)


def test_another_model_is_flagged_by_its_id_or_its_weights(model: LanguageModel, runs: list[Path]) -> None:
    checkpoint = load_checkpoint(runs[0])
    assert differences(checkpoint, model, checkpoint.metrics) == []
    checkpoint.details["model_id"] = "other"
    assert "trained on other" in differences(checkpoint, model, checkpoint.metrics)[0]
    checkpoint.details["model_id"] = model.id
    checkpoint.details["plan"]["weights"] = "000000000000"
    assert "other weights" in differences(checkpoint, model, checkpoint.metrics)[0]


def test_a_hook_point_or_a_convention_that_is_not_read_here_is_refused(copy: Path) -> None:
    edit(copy / "cfg.json", lambda c: c["metadata"].update(hook_name="blocks.1.hook_mlp_out"))
    with pytest.raises(CheckpointError, match="hook_mlp_out"):
        _ = load_checkpoint(copy).layer
    edit(copy / "cfg.json", lambda c: c["metadata"].update(hook_name="blocks.1.hook_resid_post"))
    with pytest.raises(CheckpointError, match=r"lexiscope\.layer is 0"):
        _ = load_checkpoint(copy).layer
    edit(copy / "cfg.json", lambda c: c.update(normalize_activations="expected_average_only_in"))
    with pytest.raises(CheckpointError, match="normalize_activations"):
        load_checkpoint(copy)


def test_a_dictionary_without_anchors_is_named_by_the_raw_embedding(
    copy: Path, model: LanguageModel, text_file: Path
) -> None:
    (copy / "anchors.safetensors").unlink()
    (found,) = evaluate_runs([copy], EvaluationRequest([str(text_file)], tokens=300), console=QUIET)
    directions = found.checkpoint.dictionary.directions
    unit = torch.nn.functional.normalize(model.embedding, dim=-1)
    assert torch.equal(found.measured.features["names"], (directions @ unit.T).argmax(-1))
    assert found.measured.metrics["fve"] == pytest.approx(found.checkpoint.metrics["fve"], abs=0.1)


@pytest.mark.parametrize(
    ("hook", "layer"), [("blocks.1.hook_resid_pre", None), ("transformer.h.0", None), ("", 0)]
)
def test_a_foreign_dictionary_is_evaluated_at_the_layer_that_it_is_indexed_at(
    hook: str, layer: int | None, copy: Path, text_file: Path
) -> None:
    def foreign(config: dict[str, Any]) -> None:
        del config["metadata"]["lexiscope"]
        config["metadata"]["hook_name"] = hook

    own = load_checkpoint(copy)
    edit(copy / "cfg.json", foreign)
    request = EvaluationRequest([str(text_file)], tokens=300, layer=layer)
    (found,) = evaluate_runs([copy], request, console=QUIET)
    assert own.layer == found.checkpoint.layer == 0
    assert found.checkpoint.details == {}
    assert found.measured.metrics["fve"] == pytest.approx(own.metrics["fve"], abs=0.1)


def test_the_table_shows_every_run_and_writing_goes_only_where_asked(
    runs: list[Path], text_file: Path, tmp_path: Path
) -> None:
    before = (runs[0] / METRICS).read_text()
    found = evaluate_runs(
        runs[:2], EvaluationRequest([str(text_file)], tokens=200, ce_tokens=50), console=QUIET
    )
    console = Console(record=True, width=120, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table(found))
    shown = console.export_text()
    assert runs[0].name in shown and runs[1].name in shown and "supported" in shown
    write(found, out=tmp_path / "figures.json", into_runs=False)
    assert len(json.loads((tmp_path / "figures.json").read_text())) == 2
    assert (runs[0] / METRICS).read_text() == before
    with pytest.raises(CheckpointError, match="could not be written"):
        write(found, out=tmp_path / "none" / "figures.json", into_runs=False)


def test_runs_of_one_name_keep_figures_of_their_own(runs: list[Path], tmp_path: Path) -> None:
    copies = [Path(shutil.copytree(runs[0], tmp_path / seed / "tiny" / "0-vasae")) for seed in ("s1", "s2")]
    found = [
        Evaluated(load_checkpoint(path), Measured({"number": number}, {}), [])
        for number, path in enumerate([*copies, runs[1]])
    ]
    write(found, out=tmp_path / "figures.json", into_runs=False)
    expected = {str(copies[0]): 0, str(copies[1]): 1, found[2].name: 2}
    written = json.loads((tmp_path / "figures.json").read_text())
    assert {name: figures["number"] for name, figures in written.items()} == expected
    assert names_of(found) == list(expected)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["{work}/none", "--text", "{text}"], 1, "no file or folder"),
        (["{run}", "--text", "{work}/none.txt"], 1, "no text at"),
        (["{run}", "--text", "{work}/empty.txt"], 1, "is empty"),
        (["{run}", "--text", "{text}", "--ce-tokens", "0"], 2, "ce-tokens"),
        (["{run}", "--text", "{text}", "--model", "{wide}"], 1, "does not fit"),
    ],
)
def test_a_mistake_is_one_line_and_a_non_zero_exit(
    arguments: list[str], code: int, says: str, runs: list[Path], text_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty.txt").write_text("")
    wide = Path(__file__).parents[2] / "data" / "demo" / "model"
    filled = [a.format(work=tmp_path, run=runs[0], text=text_file, wide=wide) for a in arguments]
    result = lexiscope("eval", *filled, work=tmp_path)
    assert result.returncode == code, result.stderr
    assert says in result.stderr and "Traceback" not in result.stderr
