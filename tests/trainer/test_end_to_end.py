"""Terms that run the language model are those of an obvious implementation, and training lowers them."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lexiscope.language_model import LanguageModel, load_language_model
from lexiscope.text import passages
from trainer.activations.harvest import harvest
from trainer.activations.passages import LayerActivations, TrainingBatch
from trainer.architectures import Architecture, Config, Start, Step, build
from trainer.architectures.endtoend import EndToEndConfig
from trainer.architectures.gsae import GradientTopKConfig
from trainer.architectures.topk import TopKConfig
from trainer.errors import RecipeError
from trainer.objectives import TERMS
from trainer.objectives.model_terms import run_patched
from trainer.presets import recipe
from trainer.step import Training

DEMO, LAYER = Path(__file__).parents[2] / "data" / "demo", 2


@pytest.fixture(scope="module")
def bundled() -> LanguageModel:
    return load_language_model(str(DEMO / "model"))


@pytest.fixture(scope="module")
def activations(bundled: LanguageModel) -> LayerActivations:
    text = list(passages(bundled, [str(DEMO / "corpus.txt.xz")], length=32, tokens=620))
    with harvest(bundled, text, layers=[LAYER]) as harvested:
        found = harvested.at(LAYER)
        return found._replace(x=found.x.clone(), tokens=found.tokens.clone())


def built(config: Config, model: LanguageModel, found: LayerActivations) -> tuple[Architecture, Start]:
    start = Start(
        found.x,
        found.tokens,
        embedding=model.embedding,
        d_sae=256,
        model=model,
        writes=LAYER,
        lookup=config.lookup,
    )
    with torch.no_grad():
        return build(config, start), start


def every_passage(architecture: Architecture, found: LayerActivations) -> TrainingBatch:
    every = torch.arange(len(found.starts))
    rows = found.positions(every)
    x = architecture.normalise(found.x[rows], found.tokens[rows])
    return TrainingBatch(x, x, found.tokens[rows], found.whole(every))


@torch.no_grad()
def terms_of(architecture: Architecture, batch: TrainingBatch) -> dict[str, float]:
    made = architecture.forward(batch.x)
    return {name: TERMS[name](architecture, batch, made, Step(1, 1)).item() for name in ("kl", "downstream")}


@pytest.mark.parametrize("lookup", ["none", "fixed"])
def test_the_terms_are_those_of_passages_run_one_by_one(
    bundled: LanguageModel, activations: LayerActivations, lookup: str
) -> None:
    config = TopKConfig(k=4, batch_of="passages", batch=2, lookup=lookup)  # type: ignore[arg-type]
    architecture, _ = built(config, bundled, activations)
    batch = every_passage(architecture, activations)
    rebuilt = architecture.restore(architecture.forward(batch.x).output.detach(), batch.tokens)
    later = list(range(LAYER + 1, bundled.n_layers))
    divergences: list[Tensor] = []
    errors: dict[int, list[Tensor]] = {layer: [] for layer in later}
    streams: dict[int, list[Tensor]] = {layer: [] for layer in later}
    at = 0
    for number in range(len(activations.starts)):
        tokens = activations.whole(torch.tensor([number])).tokens
        n = tokens.shape[1] - 1
        mine = rebuilt[at : at + n]
        at += n
        seen: dict[int, Tensor] = {}

        def patch(residual: Tensor, mine: Tensor = mine) -> Tensor:
            return torch.cat([residual[:, :1], mine[None]], 1)

        def recorded(layer: int, seen: dict[int, Tensor] = seen):  # type: ignore[no-untyped-def]
            return lambda residual: seen.setdefault(layer, residual.clone())

        patched = bundled.logits(tokens, {LAYER: patch, **{layer: recorded(layer) for layer in later}})[0, 1:]
        default = bundled.logits(tokens)[0, 1:]
        p, q = default.softmax(-1), patched.softmax(-1)
        divergences.append((p * (p / q).log()).sum(-1))
        own = bundled.read(tokens, later)
        for layer in later:
            errors[layer].append((seen[layer] - own[layer])[0, 1:].square().sum())
            streams[layer].append(own[layer][0, 1:])
    found = terms_of(architecture, batch)
    assert found["kl"] == pytest.approx(torch.cat(divergences).mean().item(), rel=1e-3)
    variances = {layer: torch.cat(parts).var(0, correction=0).sum() * at for layer, parts in streams.items()}
    expected = torch.stack([sum(errors[layer]) / variances[layer] for layer in later]).mean()  # type: ignore[arg-type]
    assert found["downstream"] == pytest.approx(expected.item(), rel=1e-3)


def fall_of_the_divergence(name: str, model: LanguageModel, found: LayerActivations) -> float:
    """How much ten steps of a recipe lower the KL of the text."""
    settings = {"k": 4, "batch": 2, "batch_of": "passages", "restarts": 0, "learning_rate": 5e-4, "aux_k": 0}
    config = replace(recipe(name), schedule="constant", **settings)  # type: ignore[arg-type]
    architecture, start = built(config, model, found)
    batch = every_passage(architecture, found)
    before = terms_of(architecture, batch)["kl"]
    Training(architecture, start.random, steps=10).over(found)
    return before - terms_of(architecture, batch)["kl"]


def test_training_on_the_models_output_lowers_its_divergence_more_than_reconstruction_does(
    bundled: LanguageModel, activations: LayerActivations
) -> None:
    plain, e2e, both = (
        fall_of_the_divergence(name, bundled, activations) for name in ("plain", "e2e", "e2e-downstream")
    )
    assert min(e2e, both) > 1.2 * plain > 0


def test_gradients_reach_the_rows_through_the_model(
    bundled: LanguageModel, activations: LayerActivations
) -> None:
    """A step along the gradient changes the loss as the gradient says."""
    config = replace(recipe("e2e-downstream"), k=4, batch=2)  # type: ignore[call-arg]
    architecture, _ = built(config, bundled, activations)
    architecture.matmul_dtype = torch.float32
    batch, step = every_passage(architecture, activations), Step(1, 1)
    with torch.no_grad():
        before = sum(float(loss) for loss in architecture.gradients(batch, step).losses.values())
        gradient, b_dec = architecture.gradient("b_dec").clone(), architecture.parameters["b_dec"]
        size = 1e-2 / gradient.norm()
        b_dec -= size * gradient
        after = sum(float(loss) for loss in architecture.gradients(batch, step).losses.values())
    assert before - after == pytest.approx(float(size * gradient.square().sum()), rel=0.1)


def test_early_stopping_on_an_error_that_is_not_trained_on_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"patience is 3.*local above 0"):
        EndToEndConfig(epochs=20, patience=3)
    assert EndToEndConfig(epochs=20, patience=3, local=0.1).patience == 3


def test_single_positions_are_refused(bundled: LanguageModel, activations: LayerActivations) -> None:
    architecture, _ = built(TopKConfig(k=4), bundled, activations)
    batch = every_passage(architecture, activations)._replace(passages=None)
    with pytest.raises(RecipeError, match="batch_of=passages"):
        run_patched(architecture, batch, architecture.forward(batch.x))


def test_g_sae_selects_by_activation_times_the_gradient_of_each_passages_loss(
    bundled: LanguageModel, activations: LayerActivations
) -> None:
    config = GradientTopKConfig(k=4, batch=2, beta=2.0, aux_k=0)
    architecture, _ = built(config, bundled, activations)
    batch, p = every_passage(architecture, activations), architecture.parameters
    slopes = []
    for number in range(len(activations.starts)):
        tokens = activations.whole(torch.tensor([number])).tokens
        rows = activations.positions(torch.tensor([number]))
        x = activations.x[rows].float().requires_grad_()

        def patch(residual: Tensor, x: Tensor = x) -> Tensor:
            return torch.cat([residual[:, :1], x[None]], 1)

        logits = bundled.differentiable_logits(tokens, {LAYER: patch})[0, :-1]
        torch.nn.functional.cross_entropy(logits, tokens[0, 1:], reduction="sum").backward()
        assert x.grad is not None
        slopes.append(x.grad / architecture.centring.scale)
    slope = torch.cat(slopes)
    with torch.no_grad():
        z = (batch.x @ p["encoder"].T + p["b_enc"]).relu()
        usual = slope.norm(dim=-1, keepdim=True) * (2 / torch.pi / slope.shape[1]) ** 0.5
        score = z * (1 + 2 * (slope @ p["decoder"].T).abs() / usual.clamp_min(1e-12))
        expected = score.topk(4).indices.sort().values
        found = architecture.gradients(batch, Step(1, 10)).code.indices.sort().values
        plain = z.topk(4).indices.sort().values
    assert (found == expected).float().mean() > 0.99
    assert (plain == expected).float().mean() < 0.99, "the gradient changes the choice"
    assert (architecture.forward(batch.x).code.indices.sort().values == plain).float().mean() > 0.95
