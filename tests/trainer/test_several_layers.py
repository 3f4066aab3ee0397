"""One dictionary for several layers: a group's at every layer of it, and a crosscoder."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

import trainer
from lexiscope.checkpoint import load_checkpoint
from lexiscope.errors import CheckpointError
from lexiscope.language_model import LanguageModel
from lexiscope.text import passages
from tests.trainer.test_resume import Interrupted, interrupt, same
from trainer.activations.harvest import harvest
from trainer.architectures.topk import TopKConfig
from trainer.dictionary_run import DictionaryRun
from trainer.errors import RecipeError
from trainer.initialise import centring
from trainer.several_layers import CROSSCODER

QUIET = Console(quiet=True)


def plan(recipe: str, text: Path, out: Path, layers: list[int], **changes: object) -> trainer.Plan:
    config = replace(trainer.recipe(recipe), k=4, batch=64, learning_rate=5e-3)  # type: ignore[call-arg]
    base = trainer.Plan([str(text)], [(config, layers)], out, 1000, 4000, 100, length=48, width=64)
    return base._replace(**changes)


@pytest.fixture(scope="module")
def streams(model: LanguageModel, text_file: Path) -> dict[int, torch.Tensor]:
    """{layer: [n, d]} of the text's first passages."""
    some = list(passages(model, [str(text_file)], length=48, tokens=1200))
    with harvest(model, some, layers=[0, 1]) as found:
        return {layer: found.at(layer).x.float().clone() for layer in (0, 1)}


def test_a_groups_dictionary_encodes_each_layer_by_its_own_centre_and_scale(
    model: LanguageModel, text_file: Path, tmp_path: Path, streams: dict[int, torch.Tensor]
) -> None:
    folders = trainer.train(model, plan("layer-group", text_file, tmp_path, [0, 1]), console=QUIET)
    assert [folder.name for folder in folders] == ["0-layer-group", "1-layer-group"]
    first, second = (load_checkpoint(folder) for folder in folders)
    assert first.details["layers"] == {"shared": [0, 1]} and second.details["layer"] == 1
    assert second.metrics["fve"] > 0.3 and first.metrics["fve"] > 0.3
    rows = [torch.nn.functional.normalize(each.dictionary.W_dec, dim=-1) for each in (first, second)]
    assert torch.allclose(*rows, atol=1e-4), "the same directions"
    own, other = centring(streams[0]), centring(streams[1])
    moved = (streams[1] * other.scale - other.mean + own.mean) / own.scale
    at_home, there = first.dictionary.encode(moved), second.dictionary.encode(streams[1])
    assert torch.allclose(at_home.values, there.values, atol=0.2)  # the centres are of other positions
    assert (at_home.indices == there.indices).float().mean() > 0.8


@pytest.mark.slow
@pytest.mark.parametrize("buffer", [None, 300])
@pytest.mark.parametrize("recipe", ["layer-group", "crosscoder"])
def test_a_dictionary_of_several_layers_goes_on_to_the_weights_that_it_would_have_had(
    model: LanguageModel,
    text_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    recipe: str,
    buffer: int | None,
) -> None:
    asked = plan(recipe, text_file, tmp_path / "whole", [0, 1], buffer=buffer, snapshot_every=0)
    whole = trainer.train(model, asked, console=QUIET)
    parts = asked._replace(out=tmp_path / "parts", resume=True)
    with monkeypatch.context() as patched, pytest.raises(Interrupted):
        before = interrupt(patched, after=2)
        trainer.train(model, parts, console=QUIET)
    with monkeypatch.context() as patched:
        afterwards = interrupt(patched, after=None)
        resumed = trainer.train(model, parts, console=QUIET)
    assert 0 < before[-1] < afterwards[0], "it went on from its snapshot"
    assert same(whole, resumed)
    for one, other in zip(whole, resumed, strict=True):
        assert (one / CROSSCODER).is_file() == (recipe == "crosscoder")
        if recipe == "crosscoder":
            tensors, again = load_file(one / CROSSCODER), load_file(other / CROSSCODER)
            assert all(torch.equal(tensors[name], again[name]) for name in tensors)
    assert trainer.train(model, parts, console=QUIET) == resumed, "what is finished is not trained again"


def test_a_group_whose_last_dictionary_could_not_be_written_is_resumed(
    model: LanguageModel, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = plan("layer-group", text_file, tmp_path, [0, 1], resume=True)
    write = DictionaryRun._write

    def full(self: DictionaryRun, *given: object, **more: object) -> None:
        if self.followers:
            raise CheckpointError("the disk is full")
        write(self, *given, **more)  # type: ignore[arg-type]

    with monkeypatch.context() as patch, pytest.raises(CheckpointError, match="full"):
        patch.setattr(DictionaryRun, "_write", full)
        trainer.train(model, asked, console=QUIET)
    folders = trainer.train(model, asked, console=QUIET)
    assert all(
        (folder / "metrics.json").is_file() and (folder / "train.jsonl").is_file() for folder in folders
    )


@pytest.mark.parametrize("rank", [0, 3])
def test_a_crosscoder_writes_the_later_layer_from_the_code_of_the_first(
    model: LanguageModel, text_file: Path, tmp_path: Path, streams: dict[int, torch.Tensor], rank: int
) -> None:
    asked = plan("crosscoder", text_file, tmp_path, [0, 1])
    [(config, layers)] = asked.runs
    asked = asked._replace(runs=[(replace(config, dense_rank=rank), layers)])  # type: ignore[call-arg]
    (folder,) = trainer.train(model, asked, console=QUIET)
    found, tensors = load_checkpoint(folder), load_file(folder / CROSSCODER)
    assert folder.name == "0-crosscoder" and found.metrics["fve"] > 0.3
    code = found.dictionary.encode(streams[0])
    dense = torch.zeros(len(code.values), 64).scatter_add(1, code.indices, code.values)
    rebuilt = dense @ tensors["W_dec.1"] + tensors["b_dec.1"]
    if rank:
        assert found.dictionary.dense_in is not None
        rebuilt += streams[0] @ found.dictionary.dense_in @ tensors["dense_out.1"]
    error = (rebuilt - streams[1]).square().sum() / (streams[1] - streams[1].mean(0)).square().sum()
    assert 1 - error.item() > 0.3
    assert found.details["explained"]["1"] == pytest.approx(1 - error.item(), abs=0.1)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"lookup": "fixed"}, "layers=shared needs lookup=none"),
        ({"batch_of": "passages"}, "layers=shared needs batch_of=tokens"),
        ({"anchors": "following"}, "made from one layer"),
    ],
)
def test_what_belongs_to_one_layer_is_refused(settings: dict[str, str], says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        TopKConfig(layers="shared", **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("recipe", ["itda", "top-afa", "boosting", "sparsemax"])
def test_what_reconstructs_its_input_alone_is_no_crosscoder(
    model: LanguageModel, text_file: Path, tmp_path: Path, recipe: str
) -> None:
    asked = plan(recipe, text_file, tmp_path, [0, 1])
    [(config, layers)] = asked.runs
    written = replace(config, layers="written", batch_of="tokens", batch=64, lookup="none")
    with pytest.raises(RecipeError, match="cannot be a crosscoder"):
        trainer.train(model, asked._replace(runs=[(written, layers)]), console=QUIET)


@pytest.mark.parametrize(
    ("recipe", "settings", "says"),
    [
        ("e2e-downstream", {"batch": 2}, "none comes after layer 1"),
        ("plain", {"terms": "kl:1"}, "batch_of=passages"),
    ],
)
def test_terms_that_run_the_model_are_refused_where_they_cannot(
    model: LanguageModel, text_file: Path, tmp_path: Path, recipe: str, settings: dict[str, object], says: str
) -> None:
    asked = plan(recipe, text_file, tmp_path, [0, 1])
    [(config, layers)] = asked.runs
    with pytest.raises(RecipeError, match=says):
        changed = replace(config, **settings)
        trainer.train(model, asked._replace(runs=[(changed, layers)]), console=QUIET)
    assert not list(tmp_path.rglob("plan.json"))


def test_a_group_of_one_is_refused(model: LanguageModel, text_file: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="give two or more"):
        trainer.train(model, plan("layer-group", text_file, tmp_path, [1]), console=QUIET)
