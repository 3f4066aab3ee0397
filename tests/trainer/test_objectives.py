"""Terms of the loss: AuxK revives features, and a term may run the language model on whole passages."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lexiscope.language_model import LanguageModel, load_language_model
from lexiscope.text import passages
from tests.trainer.test_architectures import built, sample, small
from trainer import objectives
from trainer.activations.harvest import harvest
from trainer.activations.passages import TrainingBatch
from trainer.architectures import Architecture, Start, Step, build
from trainer.architectures.base import Pass
from trainer.architectures.topk import TopKConfig
from trainer.step import Training, train_on_sample

DEMO = Path(__file__).parents[2] / "data" / "demo"


def kl_through_the_model(architecture: Architecture, batch: TrainingBatch, made: Pass, step: Step) -> Tensor:
    """KL(default ‖ patched), nats a position, with the reconstruction in place of the residual stream."""
    model, layer, passages = architecture.language_model, architecture.writes, batch.passages
    assert model is not None and passages is not None
    rebuilt = architecture.restore(made.output, batch.tokens)

    def patch(residual: Tensor) -> Tensor:
        return residual.masked_scatter(passages.places[..., None], rebuilt)

    default = model.logits(passages.tokens).clone().log_softmax(-1)
    patched = model.differentiable_logits(passages.tokens, {layer: patch}).log_softmax(-1)
    divergence = F.kl_div(patched, default, log_target=True, reduction="none").sum(-1)
    return divergence[passages.places].mean()


@pytest.fixture(scope="module")
def bundled() -> LanguageModel:
    return load_language_model(str(DEMO / "model"))


def fall_of_the_divergence(model: LanguageModel, weight: float, monkeypatch: pytest.MonkeyPatch) -> float:
    """How much ten steps on the bundled model, with that weight in the loss, lower the KL of the text."""
    monkeypatch.setitem(objectives.TERMS, "kl", kl_through_the_model)
    config = TopKConfig(
        k=4,
        batch=2,
        batch_of="passages",
        terms=f"kl:{weight}",
        restarts=0,
        learning_rate=5e-4,
        schedule="constant",
    )
    text = list(passages(model, [str(DEMO / "corpus.txt.xz")], length=32, tokens=620))
    with harvest(model, text, layers=[2]) as harvested:
        found = harvested.at(2)
        start = Start(found.x, found.tokens, embedding=model.embedding, d_sae=256, model=model, writes=2)
        with torch.no_grad():
            architecture = build(config, start)

        def divergence() -> float:
            every = torch.arange(len(found.starts))
            x = architecture.normalise(found.x[found.positions(every)], found.tokens[found.positions(every)])
            batch = TrainingBatch(x, x, found.tokens, found.whole(every))
            with torch.no_grad():
                return kl_through_the_model(architecture, batch, architecture.forward(x), Step(1, 1)).item()

        before = divergence()
        training = Training(architecture, start.random, steps=10)
        training.over(found)
        assert training.done
        return before - divergence()


def test_an_end_to_end_objective_trains_through_the_bundled_model_on_whole_passages(
    bundled: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_kl, without = (fall_of_the_divergence(bundled, weight, monkeypatch) for weight in (1.0, 0.0))
    assert with_kl > 1.2 * without > 0


def test_aux_k_brings_silent_features_to_life() -> None:
    firing, losses = [], []
    for aux_k in (0, 8):
        config = replace(small(TopKConfig(aux_k=aux_k, aux_after=5, restarts=0, learning_rate=1e-2)), k=2)
        architecture, start = built(config, d_sae=60)
        with torch.no_grad():
            architecture.parameters["encoder"][20:] *= 0.1  # positive, but never among the k largest
        training = Training(architecture, start.random, steps=100)
        losses.append(train_on_sample(training, sample()).log[-1].loss)
        firing.append(int((architecture.silent[20:] <= 5).sum()))
    assert firing[0] == 0 and firing[1] >= 3
    assert losses[1] < 0.9 * losses[0]


def test_aux_k_is_measured_against_the_variance_of_what_is_missed_and_in_proportion_to_the_silent() -> None:
    architecture, _ = built(small(TopKConfig(aux_k=8, aux_after=5)))
    batch = TrainingBatch(*(architecture.centring.normalise(sample().x[:64]),) * 2, sample().tokens[:64])
    with torch.no_grad():
        architecture.parameters["encoder"][:4] *= 0.01  # not in any code
        made = architecture.forward(batch.x)
        missed = batch.target - made.output
        architecture.silent[:4] = 6  # half of aux_k
        loss = architecture.losses(batch, made, Step(1, 1))["aux_k"]
    rows = architecture.parameters["encoder"][:4], architecture.parameters["decoder"][:4]
    code = (batch.x @ rows[0].T).relu()
    error = (code @ rows[1] - missed).square().mean()
    assert loss.item() == pytest.approx(
        (1 / 32 * 0.5 * error / missed.var(0, correction=0).mean()).item(), rel=1e-4
    )
