"""Terms of the loss are those of an obvious implementation; AuxK revives features."""

from dataclasses import replace

import pytest
import torch

from tests.trainer.test_architectures import built, dense, sample, small, some_batch
from trainer.activations.passages import TrainingBatch
from trainer.architectures import Architecture, Step
from trainer.architectures.abstopk import AbsTopKConfig
from trainer.architectures.jumprelu import JumpReLUConfig
from trainer.architectures.standard import StandardConfig
from trainer.architectures.topk import TopKConfig
from trainer.objectives import TERMS
from trainer.objectives.dictionary_terms import largest_cosines
from trainer.step import Training, train_on_sample


def term(architecture: Architecture, name: str) -> float:
    batch = some_batch(architecture)
    with torch.no_grad():
        made = architecture.forward(batch.x)
        return TERMS[name](architecture, batch, made, Step(1, 1)).item()


@pytest.mark.parametrize("config", [TopKConfig(), AbsTopKConfig()], ids=lambda config: config.name)
def test_penalties_before_the_selection_are_those_of_each_token_by_itself(config: TopKConfig) -> None:
    architecture, _ = built(small(config))
    architecture.matmul_dtype = torch.float32
    signed = isinstance(config, AbsTopKConfig)
    p, off, ratios = architecture.parameters, [], []
    for x in some_batch(architecture).x:
        pre = [(row @ x + bias).item() for row, bias in zip(p["encoder"], p["b_enc"], strict=True)]
        ordered = sorted((abs(z) if signed else max(z, 0.0) for z in pre), reverse=True)
        off.append(sum(ordered[4:]))
        ratios.append(sum(ordered) / sum(z * z for z in ordered) ** 0.5)
    assert term(architecture, "off_support") == pytest.approx(sum(off) / len(off), rel=1e-3)
    assert term(architecture, "l1_l2") == pytest.approx(sum(ratios) / len(ratios), rel=1e-3)


@pytest.mark.parametrize("config", [StandardConfig(), JumpReLUConfig()], ids=lambda config: config.name)
@torch.no_grad()
def test_what_a_code_of_any_length_selects_is_not_off_its_support(config: TopKConfig) -> None:
    architecture, _ = built(small(config))
    batch, p = some_batch(architecture), architecture.parameters
    code = architecture.forward(batch.x).code
    pre = (batch.x @ p["encoder"].T + p["b_enc"]).relu()
    fires = dense(code) != 0
    padded = (code.values == 0) & (code.indices == 0)
    assert (fires[:, 0] & padded.any(1)).any(), "feature 0 both fires and pads"
    expected = (pre * ~fires).sum().item() / len(pre)
    assert term(architecture, "off_support") == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("chunk", [8192, 10])
def test_the_orthogonality_term_is_the_largest_cosine_within_a_chunk(
    chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.objectives.dictionary_terms.CHUNK_OF_ROWS", chunk)
    rows = torch.randn(40, 12, generator=torch.Generator().manual_seed(0))
    order = torch.randperm(40, generator=torch.Generator().manual_seed(7)).tolist()
    chunks = [order[start : start + chunk] for start in range(0, 40, chunk)]
    expected = [
        max(float(torch.cosine_similarity(rows[i], rows[j], dim=0)) for j in members if j != i)
        for members in chunks
        for i in members
    ]
    assert largest_cosines(rows, seed=7).tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("name", "weight"), [("off_support", 1e-3), ("l1_l2", 1e-2), ("orthogonality", 1.0), ("norm_match", 1e-2)]
)
def test_a_term_in_the_loss_lowers_itself(name: str, weight: float) -> None:
    found = []
    for terms in ("", f"{name}:{weight}"):
        architecture, start = built(small(TopKConfig(terms=terms)))
        train_on_sample(Training(architecture, start.random, steps=60), sample())
        found.append(term(architecture, name))
    assert found[1] < 0.98 * found[0]


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
