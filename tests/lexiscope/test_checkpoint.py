"""A checkpoint round-trips, keeps SAELens's layout, and every damaged one is refused by name."""

import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lexiscope.checkpoint import (
    ANCHORS,
    CONFIG,
    WEIGHTS,
    AnchorFit,
    export_saelens,
    load_checkpoint,
    new_checkpoint,
    save_weights,
)
from lexiscope.dictionary import Dictionary
from lexiscope.errors import CheckpointError
from tests.lexiscope.test_dictionary import random_dictionary


def write(folder: Path, dictionary: Dictionary) -> Path:
    fit = AnchorFit(torch.randn(9, 6).half().float(), torch.arange(9.0), torch.randn(6), torch.arange(20) - 1)
    with new_checkpoint(folder) as partial:
        save_weights(
            partial,
            dictionary,
            fit=fit,
            model="m",
            hook="blocks.1.hook_resid_post",
            context=64,
            details={"layer": 1},
        )
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "run", random_dictionary())


def test_what_is_loaded_is_what_was_saved(tmp_path: Path) -> None:
    dictionary = random_dictionary(dense=True)
    found = load_checkpoint(write(tmp_path / "run", dictionary))
    x = torch.randn(5, 6)
    assert torch.equal(found.dictionary.reconstruct(x), dictionary.reconstruct(x))
    assert found.details == {"layer": 1}
    assert found.fit is not None and found.fit.assigned.tolist() == list(range(-1, 19))


def test_a_plain_dictionary_has_the_keys_and_shapes_saelens_reads(folder: Path) -> None:
    config = json.loads((folder / CONFIG).read_text())
    assert config["architecture"] == "topk" and config["k"] == 4
    assert config["apply_b_dec_to_input"] is False and config["normalize_activations"] == "none"
    assert {"model_name", "hook_name", "prepend_bos"} <= set(config["metadata"])
    shapes = {name: tuple(tensor.shape) for name, tensor in load_file(folder / WEIGHTS).items()}
    assert shapes == {"W_enc": (6, 20), "b_enc": (20,), "W_dec": (20, 6), "b_dec": (6,)}


def test_a_dense_path_declares_an_architecture_of_its_own(tmp_path: Path) -> None:
    folder = write(tmp_path / "run", random_dictionary(dense=True))
    assert json.loads((folder / CONFIG).read_text())["architecture"] != "topk"


def test_an_existing_run_is_never_overwritten(folder: Path) -> None:
    before = (folder / WEIGHTS).read_bytes()
    with pytest.raises(CheckpointError, match="already holds a run"):
        write(folder, random_dictionary(seed=1))
    assert (folder / WEIGHTS).read_bytes() == before


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), new_checkpoint(tmp_path / "run") as partial:
        (partial / "half").write_text("x")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_truncated_file_is_refused(folder: Path) -> None:
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="truncated"):
        load_checkpoint(folder)


class Bomb:
    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("/tmp/lexiscope-pickle-was-executed"),))


def test_a_pickle_is_refused_and_not_executed(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(CheckpointError, match="pickle"):
        load_checkpoint(folder)
    assert not Path("/tmp/lexiscope-pickle-was-executed").exists()
    (folder / WEIGHTS).rename(folder / "sae.pt")
    with pytest.raises(CheckpointError, match="never executed"):
        load_checkpoint(folder)


def test_weights_that_disagree_with_the_config_are_refused(folder: Path) -> None:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | {"d_sae": 21}))
    with pytest.raises(CheckpointError, match="d_sae 21"):
        load_checkpoint(folder)
    (folder / CONFIG).write_text(json.dumps(config | {"architecture": "jumprelu"}))
    with pytest.raises(CheckpointError, match="jumprelu"):
        load_checkpoint(folder)
    (folder / CONFIG).write_text("{")
    with pytest.raises(CheckpointError, match="JSON"):
        load_checkpoint(folder)


def test_nan_weights_a_missing_tensor_and_no_folder_are_refused(folder: Path, tmp_path: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    save_file(tensors | {"b_dec": tensors["b_dec"] * float("nan")}, folder / WEIGHTS)
    with pytest.raises(CheckpointError, match="NaN"):
        load_checkpoint(folder)
    save_file({name: tensor for name, tensor in tensors.items() if name != "b_enc"}, folder / WEIGHTS)
    with pytest.raises(CheckpointError, match="b_enc"):
        load_checkpoint(folder)
    with pytest.raises(CheckpointError, match="no checkpoint folder"):
        load_checkpoint(tmp_path / "none")


def test_anchors_can_stay_on_disk(folder: Path) -> None:
    (folder / ANCHORS).write_bytes(b"damaged")
    assert load_checkpoint(folder, anchors=False).fit is None
    with pytest.raises(CheckpointError):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("threshold", "normalise", "architecture"),
    [
        (None, "none", "topk"),
        (torch.zeros(20), "layer_norm", "standard"),
        (torch.full((20,), 0.2), "constant_norm", "jumprelu"),
    ],
)
def test_an_export_for_saelens_encodes_as_the_dictionary_does(
    threshold: torch.Tensor | None, normalise: str, architecture: str, folder: Path, tmp_path: Path
) -> None:
    """That SAELens itself agrees is checked by `make check-foreign`."""
    dictionary = replace(random_dictionary(), threshold=threshold, normalise=normalise)
    export_saelens(load_checkpoint(folder)._replace(dictionary=dictionary), tmp_path / "out")
    found = load_checkpoint(tmp_path / "out")
    assert (found.origin, found.architecture, found.layer) == ("saelens", architecture, 1)
    x = torch.randn(7, 6)
    assert torch.equal(found.dictionary.reconstruct(x), dictionary.reconstruct(x))


def test_what_saelens_cannot_express_is_not_exported_and_nothing_is_overwritten(
    tmp_path: Path, folder: Path
) -> None:
    dense = load_checkpoint(write(tmp_path / "dense", random_dictionary(dense=True)))
    with pytest.raises(CheckpointError, match="dense path"):
        export_saelens(dense, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    before = (folder / WEIGHTS).read_bytes()
    with pytest.raises(CheckpointError, match="already holds"):
        export_saelens(load_checkpoint(folder), folder)
    assert (folder / WEIGHTS).read_bytes() == before
