"""The command that a checkpoint gives makes the same weights again."""

import json
import shlex
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lexiscope import training_files
from trainer.__main__ import main


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
