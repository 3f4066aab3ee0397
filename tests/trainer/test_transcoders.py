"""Transcoders: a dictionary that reads what an MLP reads and reconstructs what it adds, trained by the same
engine.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from torch import Tensor

import trainer
from cli.evaluate_command import EvaluationRequest, evaluate_runs
from lexiscope.checkpoint import export_saelens, load_checkpoint
from lexiscope.errors import CheckpointError, ModelError
from lexiscope.language_model import LanguageModel, MlpPoint, load_language_model
from lexiscope.metrics import cross_entropy
from lexiscope.text import passages
from tests import tiny
from tests.trainer.test_architectures import D_SAE, STEP, VOCAB, dense, sample, small
from tests.trainer.test_resume import Interrupted, interrupt, same
from trainer.__main__ import main
from trainer.activations.passages import LayerActivations, TrainingBatch
from trainer.architectures import Architecture, Config, Start, build
from trainer.architectures.endtoend import EndToEndConfig
from trainer.architectures.ensemble import BoostingConfig
from trainer.architectures.gsae import GradientTopKConfig
from trainer.architectures.sasa import SASAConfig
from trainer.architectures.sparsemax import SparsemaxConfig
from trainer.architectures.topafa import TopAFAConfig
from trainer.architectures.topk import TopKConfig
from trainer.errors import RecipeError
from trainer.presets import recipes
from trainer.step import Training, train_on_sample

QUIET = Console(quiet=True)
D_OUT = 7
NO_TRANSCODERS = (BoostingConfig, EndToEndConfig, GradientTopKConfig, SparsemaxConfig, TopAFAConfig)
CONFIGS = [
    replace(small(config), aux_k=0 if config.name == "sa-gsae" else 3)
    for config in recipes().values()
    if isinstance(config, TopKConfig) and not isinstance(config, NO_TRANSCODERS) and config.layers == "each"
]
each_config = pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.name)


def pairs() -> LayerActivations:
    """x with a target of another width: ReLU features of it, around its token's state."""
    found, draw = sample(), torch.Generator().manual_seed(5)
    reads, writes = (torch.randn(shape, generator=draw) for shape in ((12, 20), (20, D_OUT)))
    target = ((found.x.float() - 4) @ reads / 4).relu() @ writes + 2
    return found._replace(target=target.bfloat16())


def built(config: Config) -> tuple[Architecture, Start]:
    found = pairs()
    embedding = torch.randn(VOCAB, D_OUT, generator=torch.Generator().manual_seed(0))
    start = Start(found.x, found.tokens, embedding=embedding, d_sae=D_SAE, target=found.target)
    with torch.no_grad():
        return build(config, start), start


@each_config
@torch.no_grad()
def test_gradients_are_those_of_autograd_where_the_target_has_another_width(config: Config) -> None:
    architecture, _ = built(config)
    architecture.matmul_dtype = torch.float32
    found = pairs()
    assert found.target is not None
    x = architecture.centring.normalise(found.x[:64])
    target = architecture.target_centring.normalise(found.target[:64])
    batch = TrainingBatch(x, target, found.tokens[:64])
    architecture.silent[::3] = 10**6  # AuxK is at work
    by_hand = architecture.gradients(batch, STEP)
    kept = {name: architecture.gradient(name).clone() for name in architecture.parameters}
    by_autograd = Architecture.gradients(architecture, batch, STEP)
    for name, loss in by_hand.losses.items():
        assert loss.item() == pytest.approx(by_autograd.losses[name].item(), rel=1e-4), name
    for name, gradient in kept.items():
        assert torch.allclose(gradient, architecture.gradient(name), atol=1e-6), name


@each_config
def test_training_lowers_the_loss_and_the_dictionary_maps_raw_x_to_the_raw_target(config: Config) -> None:
    architecture, start = built(config)
    architecture.matmul_dtype = torch.float32
    log = train_on_sample(Training(architecture, start.random, steps=60), pairs()).log
    assert log[-1].loss < 0.8 * log[0].loss and log[-1].loss < 0.5
    dictionary, x = Training(architecture, start.random).dictionary(), sample().x[:300].float()
    assert (dictionary.d_in, dictionary.d_out) == (12, D_OUT)
    if architecture.by_batch:
        return  # inference selects by a threshold: see test_selections
    with torch.no_grad():
        y = architecture.centring.normalise(x)
        expected = architecture.target_centring.restore(architecture.forward(y).output)
        assert torch.allclose(dictionary.reconstruct(x), expected, atol=1e-3)
        found, made = dense(dictionary.encode(x)), dense(architecture.forward(y).code)
        if config.name == "sasa":  # in other axes of the same blocks
            found, made = (each.unflatten(1, (-1, 4)).norm(dim=-1) for each in (found, made))
        assert torch.allclose(found, made, atol=1e-3)


def test_the_rows_of_a_sasa_block_start_on_the_side_of_what_their_encoder_rows_are_to_write() -> None:
    architecture, _ = built(small(SASAConfig(block=4), dense_rank=0))
    encoder, decoder = (architecture.parameters[name].detach() for name in ("encoder", "decoder"))
    found, first = pairs(), torch.arange(D_SAE) % 4 == 0
    assert found.target is not None
    x = architecture.centring.normalise(found.x)
    target = architecture.target_centring.normalise(found.target)
    begun = torch.nn.functional.normalize(x, dim=-1) @ torch.nn.functional.normalize(encoder, dim=-1).T
    samples = target[begun.argmax(0)]
    along = torch.nn.functional.cosine_similarity(decoder, samples, dim=-1)
    assert (along > -1e-4).all() and along[first].min() > 0.999


def plan(text: Path, out: Path, *names: str, **changes: Any) -> trainer.Plan:
    """Transcoders of layer 1."""
    runs = [(replace(trainer.recipe(name), k=4, batch=64), [1]) for name in names]
    return trainer.Plan(
        [str(text)], runs, out, 1000, 6000, 100, length=48, snapshot_every=0, transcoder=True
    )._replace(**changes)


@pytest.fixture(scope="module")
def transcoders(
    model: LanguageModel, text_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> list[Path]:
    """A jumprelu and a matched one."""
    asked = plan(text_file, tmp_path_factory.mktemp("runs"), "jumprelu", "matched")
    return trainer.train(model, asked, console=QUIET)


def mlp_of(model: LanguageModel, tokens: Tensor) -> tuple[Tensor, Tensor]:
    reads, writes = MlpPoint(1, "in"), MlpPoint(1, "out")
    found = model.read(tokens, [reads, writes])
    return found[reads], found[writes]


def test_what_is_read_and_written_are_the_mlps_input_and_output(model: LanguageModel) -> None:
    tokens = torch.tensor([[0, 5, 9, 7]])
    block = model._bridge.original_model.transformer.h[1]
    x, y = mlp_of(model, tokens)
    assert torch.allclose(block.mlp(x), y, atol=1e-5)
    stream = model.read(tokens, [0, 1])
    assert not torch.allclose(stream[1] - stream[0], y, atol=1e-3)  # attention adds its part


def test_a_run_writes_transcoders_and_their_figures_are_of_the_mlps_output(
    transcoders: list[Path], model: LanguageModel, text_file: Path
) -> None:
    assert [path.name for path in transcoders] == ["1-jumprelu-transcoder", "1-matched-transcoder"]
    for path in transcoders:
        found = load_checkpoint(path)
        assert (found.hook, found.hook_out) == ("blocks.1.mlp.hook_in", "blocks.1.hook_mlp_out")
        assert found.mlp == 1
        with pytest.raises(CheckpointError, match="is a transcoder"):
            _ = found.layer
        metrics, (held_out, *_) = found.metrics, _held_out(model, text_file)
        assert "MLP's output" in metrics["protocol"] and metrics["fve"] > 0.2
        tokens = torch.from_numpy(held_out).long()[None]
        with torch.inference_mode():
            x, y = mlp_of(model, tokens)
            y[0, 1:] = found.dictionary.reconstruct(x[0, 1:])
            patched = model.logits(tokens, {MlpPoint(1, "out"): lambda _, y=y: y})
            differences = [
                cross_entropy(logits[0, 1:-1], tokens[0, 2:]).sum().item()
                for logits in (patched, model.logits(tokens))
            ]
        assert metrics["passage_delta_ce"][0][0] == pytest.approx(differences[0] - differences[1], abs=1e-2)
    (again,) = evaluate_runs(transcoders[:1], EvaluationRequest([str(text_file)]), console=QUIET)
    for name, value in load_checkpoint(transcoders[0]).metrics.items():
        if isinstance(value, float):
            assert again.measured.metrics[name] == pytest.approx(value, rel=1e-3, abs=2e-3), name


def _held_out(model: LanguageModel, text: Path) -> list[np.ndarray]:
    return [p for i, p in enumerate(passages(model, [str(text)], length=48)) if i % 10 == 9]


def test_a_transcoder_that_saelens_has_is_exported_with_equal_outputs(
    transcoders: list[Path], tmp_path: Path
) -> None:
    first, second = (load_checkpoint(path) for path in transcoders)
    export_saelens(first, tmp_path / "out")
    again = load_checkpoint(tmp_path / "out")
    assert (again.architecture, again.hook_out) == ("jumprelu_transcoder", "blocks.1.hook_mlp_out")
    x = torch.randn(50, 32)
    assert torch.equal(again.dictionary.reconstruct(x), first.dictionary.reconstruct(x))
    assert load_file(tmp_path / "out" / "sae_weights.safetensors")["W_dec"].shape == (
        first.dictionary.d_sae,
        32,
    )
    with pytest.raises(CheckpointError, match="dense path"):
        export_saelens(second, tmp_path / "none")


def test_a_transcoder_resumes_and_shares_a_cache_with_dictionaries(
    model: LanguageModel, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    whole = plan(text_file, tmp_path / "whole", "plain", cache=cache)
    trainer.train(model, whole._replace(transcoder=False, out=tmp_path / "saes"), console=QUIET)
    with monkeypatch.context() as patched, pytest.raises(Interrupted):
        interrupt(patched, after=3)
        trainer.train(model, whole._replace(out=tmp_path / "parts"), console=QUIET)
    names = {file.name for file in cache.glob("*/*.bf16")}
    assert names == {"1.bf16", "1.mlp_in.bf16", "1.mlp_out.bf16"}
    resumed = trainer.train(model, whole._replace(out=tmp_path / "parts", resume=True), console=QUIET)
    without = trainer.train(model, whole._replace(cache=None), console=QUIET)
    assert same(resumed, without)


def test_what_cannot_be_a_transcoder_is_refused_before_any_time_is_spent(
    model: LanguageModel, text_file: Path, tmp_path: Path
) -> None:
    for name, changes, words in (
        ("plain", {"aligned": True}, "aligned=true"),
        ("plain", {"anchors": "unigram"}, "made from the residual stream"),
        ("paper-plain", {}, "the paper's method"),
    ):
        asked = plan(text_file, tmp_path / "out", name)
        runs = [(replace(config, **changes), layers) for config, layers in asked.runs]
        with pytest.raises(RecipeError, match=words):
            trainer.train(model, asked._replace(runs=runs), console=QUIET)
    assert not (tmp_path / "out").exists()


def test_a_model_whose_mlp_cannot_be_read_is_refused_in_words(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.check_mlps([0, 1])
    monkeypatch.setattr("lexiscope.language_model.patching.hook_name", lambda point: "blocks.0.no_such_hook")
    with pytest.raises(ModelError, match="no MLP at layer 1"):
        model.check_mlps([1])


@pytest.mark.parametrize("kind", ["llama", "gpt-neo"])
def test_the_mlp_adds_what_is_read_as_its_output(kind: str, tmp_path: Path) -> None:
    model = load_language_model(str(tiny.make_model(tmp_path / kind, kind=kind)))
    model.check_mlps([0, 1])
    tokens = torch.tensor([[0, 5, 9, 7]])
    last, written = model.read(tokens, [1])[1], mlp_of(model, tokens)[1]
    without = model.logits(tokens, {MlpPoint(1, "out"): torch.zeros_like})
    assert torch.allclose(model.logits_from(tokens, 1, last - written), without, atol=1e-4)


def test_the_command_line_trains_transcoders(model_folder: Path, text_file: Path, tmp_path: Path) -> None:
    line = f"{model_folder} --text {text_file} --out {tmp_path} --transcoder --recipe batchtopk --layers 0"
    sizes = "--k 4 --set batch=64 --tokens 1000 --eval-tokens 100 --length 48 --width 80"
    with pytest.raises(SystemExit) as ended:
        main([*line.split(), *sizes.split()], prog="train")
    assert not ended.value.code
    assert load_checkpoint(tmp_path / "tiny" / "0-batchtopk-transcoder").dictionary.d_sae == 80


@pytest.mark.parametrize(
    "config", [*(each() for each in NO_TRANSCODERS), TopKConfig(layers="shared")], ids=lambda c: c.name
)
def test_methods_that_reconstruct_what_they_read_are_refused(config: Config) -> None:
    with pytest.raises(RecipeError):
        config.check_transcoder()
