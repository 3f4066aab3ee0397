"""A checkpoint round-trips, keeps SAELens's layout, and every damaged one is refused by name."""

import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lexiscope.anchors import nearest_tokens
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
from lexiscope.formats import stored
from lexiscope.selection import Selection, Threshold, TopK
from lexiscope.sparse_code import SparseCode
from tests.lexiscope.test_dictionary import random_dictionary


class Signed(Selection):
    """A selection that checkpoints do not know."""

    def encode(self, pre_activations: torch.Tensor) -> SparseCode:
        raise NotImplementedError

    select = of_feature = encode


def write(
    folder: Path, dictionary: Dictionary, *, hook_out: str = "", anchors: torch.Tensor | None = None
) -> Path:
    anchors = torch.randn(9, 6).half().float() if anchors is None else anchors
    fit = AnchorFit(anchors, torch.arange(9.0), torch.randn(6), torch.arange(20) - 1)
    with new_checkpoint(folder) as partial:
        save_weights(
            partial,
            dictionary,
            fit=fit,
            model="m",
            hook="blocks.1.hook_resid_post",
            context=64,
            details={"layer": 1},
            hook_out=hook_out,
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


@pytest.mark.parametrize("largest", [65_500.0, 1e5, 1e15, 1e-7])
def test_anchors_of_any_size_keep_the_names_of_all_features(largest: float, tmp_path: Path) -> None:
    anchors = torch.randn(9, 6)
    anchors[2] *= largest / anchors[2].abs().max()
    anchors[5] = 0
    dictionary = random_dictionary()
    found = load_checkpoint(write(tmp_path / "run", dictionary, anchors=anchors)).fit
    assert found is not None
    before, after = (nearest_tokens(dictionary.directions, each, 1) for each in (anchors, found.anchors))
    assert torch.equal(before.tokens, after.tokens)
    assert torch.allclose(before.cosines, after.cosines, atol=1e-3)
    ordinary = torch.arange(9) != 2
    assert torch.equal(found.anchors[ordinary], anchors[ordinary].half().float())


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


def test_weights_that_cannot_be_read_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(stored, "load_file", broken)
    with pytest.raises(CheckpointError, match=r"cannot be read: .*Permission denied"):
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
    with pytest.raises(CheckpointError, match="no file or folder"):
        load_checkpoint(tmp_path / "none")


def test_anchors_can_stay_on_disk(folder: Path) -> None:
    (folder / ANCHORS).write_bytes(b"damaged")
    assert load_checkpoint(folder, anchors=False).fit is None
    with pytest.raises(CheckpointError):
        load_checkpoint(folder)


SELECTIONS = {
    "topk": TopK(4),
    "standard": Threshold(torch.zeros(20)),
    "jumprelu": Threshold(torch.linspace(-0.5, 1, 20)),
}


@pytest.mark.parametrize("hook_out", ["", "blocks.1.hook_mlp_out"])
@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("kind", SELECTIONS)
def test_every_selection_round_trips(kind: str, dense: bool, hook_out: str, tmp_path: Path) -> None:
    dictionary = replace(random_dictionary(dense=dense), selection=SELECTIONS[kind])
    if hook_out:
        out = {"W_dec": torch.randn(20, 5), "b_dec": torch.randn(5)}
        dictionary = replace(dictionary, **out, dense_out=torch.randn(2, 5) if dense else None)
    found = load_checkpoint(write(tmp_path / "run", dictionary, hook_out=hook_out))
    assert type(found.dictionary.selection) is type(dictionary.selection)
    assert list(found.dictionary.tensors()) == list(dictionary.tensors())
    assert all(torch.equal(t, found.dictionary.tensors()[name]) for name, t in dictionary.tensors().items())
    x = torch.randn(40, 6)
    assert torch.equal(found.dictionary.encode(x).values, dictionary.encode(x).values)
    assert torch.equal(found.dictionary.reconstruct(x), dictionary.reconstruct(x))
    own = dense or (hook_out and kind == "topk")
    assert found.architecture.startswith("lexiscope_") == bool(own)
    assert (found.hook_out, found.origin) == (hook_out, "lexiscope")


@pytest.mark.parametrize("normalise", ["constant_norm", "layer_norm"])
def test_the_normalisation_of_inputs_round_trips(normalise: str, tmp_path: Path) -> None:
    dictionary = replace(random_dictionary(), normalise=normalise)
    x = torch.randn(7, 6)
    found = load_checkpoint(write(tmp_path / "run", dictionary)).dictionary
    assert torch.equal(found.reconstruct(x), dictionary.reconstruct(x))


@pytest.mark.parametrize(("name", "shape"), [("dense_in", (5, 2)), ("dense_out", (2, 12))])
def test_a_dense_path_of_another_width_is_refused(tmp_path: Path, name: str, shape: tuple[int, int]) -> None:
    dictionary = replace(random_dictionary(dense=True), **{name: torch.zeros(shape)})
    with pytest.raises(CheckpointError, match=rf"{name} has shape \({shape[0]}, {shape[1]}\)"):
        load_checkpoint(write(tmp_path / "run", dictionary))


def test_a_selection_without_a_spelling_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="Signed"):
        write(tmp_path / "run", replace(random_dictionary(), selection=Signed()))
    assert not (tmp_path / "run").exists()


def test_a_transcoder_is_refused_where_a_dictionary_must_reconstruct_what_it_reads(tmp_path: Path) -> None:
    found = load_checkpoint(write(tmp_path / "run", random_dictionary(), hook_out="blocks.1.hook_mlp_out"))
    with pytest.raises(
        CheckpointError, match=r"transcoder: it reads blocks\.1\.hook_resid_post and writes .*mlp_out"
    ):
        _ = found.layer


@pytest.mark.parametrize(
    ("architecture", "normalise"),
    [("topk", "none"), ("standard", "layer_norm"), ("jumprelu", "constant_norm")],
)
def test_an_export_for_saelens_encodes_as_the_dictionary_does(
    architecture: str, normalise: str, folder: Path, tmp_path: Path
) -> None:
    """That SAELens itself agrees is checked by `make check-foreign`."""
    dictionary = replace(random_dictionary(), selection=SELECTIONS[architecture], normalise=normalise)
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


ODD = {
    "not a number": (lambda text: text.replace('"k": 4', '"k": NaN'), "k is nan"),
    "infinite": (lambda text: text.replace('"k": 4', '"k": Infinity'), "k is inf"),
    "digits": (lambda text: text.replace('"k": 4', '"k": ' + "9" * 5000), "not readable JSON"),
    "nested": (lambda text: text.replace('"k": 4', '"k": ' + "[" * 100_000), "not readable JSON"),
    "metadata": (lambda text: json.dumps(json.loads(text) | {"metadata": [1]}), ""),
    "details": (
        lambda text: text.replace('"lexiscope": {', '"lexiscope": [1], "x": {'),
        "metadata.lexiscope",
    ),
    "norm": (lambda text: text.replace('"layer": 1', '"mean_norm": "x"'), "mean_norm is 'x'"),
    "infinite norm": (lambda text: text.replace('"layer": 1', '"mean_norm": Infinity'), "mean_norm is 'inf'"),
    "layer": (lambda text: text.replace('"layer": 1', '"layer": "one"'), "layer is 'one'"),
}


@pytest.mark.parametrize("case", ODD)
def test_odd_settings_are_one_line_or_read_as_not_recorded(case: str, folder: Path) -> None:
    change, says = ODD[case]
    text = (folder / CONFIG).read_text()
    assert change(text) != text
    (folder / CONFIG).write_text(change(text))
    if not says:
        assert load_checkpoint(folder).details == {}
        return
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(folder)
    assert says in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_a_file_larger_than_the_memory_is_refused_before_it_is_read(folder: Path) -> None:
    with (folder / WEIGHTS).open("r+b") as file:
        file.truncate(2 << 40)  # a hole: no disk is used
    with pytest.raises(CheckpointError, match=r"2,199\.0 GB, more than this machine's memory"):
        load_checkpoint(folder)


def test_all_files_of_a_checkpoint_can_be_read_by_the_same_people(folder: Path) -> None:
    assert len({path.stat().st_mode for path in folder.iterdir()}) == 1
