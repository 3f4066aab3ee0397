"""The command that a checkpoint gives makes the same weights again."""

import json
import shlex
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lexiscope import training_files
from lexiscope.text import Text
from trainer.__main__ import main
from trainer.plan import Plan, provenance


def test_how_the_text_was_read_is_recorded_where_it_is_not_the_usual_way() -> None:
    usual = Plan(sources=["rows.jsonl"], runs=[], out=Path(), tokens=1, seen=1, eval_tokens=1)
    chat = usual._replace(sources=Text(("rows.jsonl",), "body", True))
    identified = {"recipe": {"name": "plain"}, "layer": 0, "text": "x"}
    without, recorded = (provenance(plan, identified, model_id="m", set_name="s") for plan in (usual, chat))
    assert (recorded["field"], recorded["chat"]) == ("body", True)
    assert without.keys() == recorded.keys() - {"field", "chat"}


@pytest.mark.slow
def test_the_command_of_a_checkpoint_trains_the_same_weights(
    runs: list[Path], model_folder: Path, text_file: Path, tmp_path: Path
) -> None:
    made = runs[1]
    training = json.loads((made / "cfg.json").read_text())["metadata"]["lexiscope"]
    words = shlex.split(training_files.command(training, str(model_folder)))
    words[words.index("--text") + 1] = str(text_file)
    with pytest.raises(SystemExit) as ended:
        main([*words[2:], "--eval-tokens", "600", "--out", str(tmp_path)], prog="lexiscope train")
    assert ended.value.code == 0
    first = load_file(made / "sae_weights.safetensors")
    second = load_file(tmp_path / made.parent.name / made.name / "sae_weights.safetensors")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
