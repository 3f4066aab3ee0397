"""BatchTopK, Matryoshka, JumpReLU and Gated against slow, dense implementations of their papers' formulas."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from lexiscope.rounded import Scratch
from tests.trainer.test_architectures import D_SAE, STEP, built, dense, sample, small, some_batch
from trainer import sparse
from trainer.architectures import Architecture
from trainer.architectures.batchtopk import BatchTopK, BatchTopKConfig
from trainer.architectures.gated import Gated, GatedConfig
from trainer.architectures.jumprelu import JumpReLU, JumpReLUConfig
from trainer.architectures.matryoshka import MatryoshkaConfig
from trainer.errors import RecipeError
from trainer.step import Training


def rest(architecture: Architecture, x: torch.Tensor) -> torch.Tensor:
    """What the reconstruction has beside the sparse part."""
    p = architecture.parameters
    return x @ p["dense_in"] @ p["dense_out"] + p["b_dec"]


@torch.no_grad()
def test_above_finds_every_pre_activation_above_its_level() -> None:
    draw = torch.Generator().manual_seed(0)
    x, encoder, bias = (torch.randn(*shape, generator=draw) for shape in ((50, 6), (20, 6), (20,)))
    lowest = torch.rand(20, generator=draw)
    pre = x @ encoder.T + bias
    expected = torch.where(pre > lowest, pre, 0)
    for scratch in (None, Scratch(7)):
        code = sparse.above(x, encoder, bias, lowest, scratch=scratch)
        found = torch.zeros(50, 20).scatter_add(1, code.indices, code.values)
        assert torch.allclose(found, expected, atol=1e-5)


@torch.no_grad()
def test_batchtopk_selects_the_largest_pre_activations_of_the_batch() -> None:
    architecture, _ = built(small(BatchTopKConfig(k=3)))
    architecture.matmul_dtype = torch.float32
    p = architecture.parameters
    x = some_batch(architecture).x
    x[0] *= 20  # one token takes many features
    pre = (x @ p["encoder"].T + p["b_enc"]).relu()
    kept = pre.reshape(-1).topk(4 * len(x)).indices
    expected = torch.zeros(pre.numel()).scatter(0, kept, pre.reshape(-1)[kept]).view_as(pre)
    code = architecture.forward(x).code
    assert torch.allclose(dense(code), expected, atol=1e-4)
    assert (expected[0] > 0).sum() > 16


def test_batchtopk_keeps_k_features_a_token_at_inference_with_its_threshold() -> None:
    architecture, start = built(small(BatchTopKConfig()))
    training = Training(architecture, start.random, steps=200)
    training.over(sample())
    code = training.dictionary().encode(sample().x.float())
    active = (code.values > 0).sum(-1).float()
    assert active.mean().item() == pytest.approx(4, rel=0.1)
    assert active.std() > 0


@torch.no_grad()
def test_matryoshka_sums_the_errors_of_its_nested_dictionaries() -> None:
    architecture, _ = built(small(MatryoshkaConfig(widths="5,20", aux_k=0)))
    batch = some_batch(architecture)
    made = architecture.forward(batch.x)
    losses = architecture.losses(batch, made, STEP)
    code, decoder = dense(made.code), architecture.parameters["decoder"]
    for name, width in (("mse_5", 5), ("mse_20", 20), (f"mse_{D_SAE}", D_SAE)):
        output = code[:, :width] @ decoder[:width] + rest(architecture, batch.x)
        assert losses[name].item() == pytest.approx(F.mse_loss(output, batch.target).item() / 3, rel=1e-4)


@pytest.mark.parametrize("widths", ["20,5", "0,5", "five", "5,5", "40"])
def test_matryoshka_refuses_widths_that_do_not_ascend_below_its_own(widths: str) -> None:
    with pytest.raises(RecipeError, match="ascending"):
        built(small(MatryoshkaConfig(widths=widths)))


def test_jumprelu_has_the_gradients_of_its_paper() -> None:
    config = small(JumpReLUConfig(sparsity=0.7, bandwidth=1.0, aux_k=0))
    architecture, _ = built(config)
    assert isinstance(architecture, JumpReLU)
    batch, p = some_batch(architecture), architecture.parameters
    with torch.no_grad():
        architecture.gradients(batch, STEP)
        pre = batch.x @ p["encoder"].T + p["b_enc"]
        threshold = architecture.threshold()
        half = threshold[0] / 2  # all are the first one, which a bandwidth of 1 is a multiple of
        active, window = pre > threshold, ((pre - threshold).abs() < half) & (pre > 0)
        error = (pre * active) @ p["decoder"] + rest(architecture, batch.x) - batch.target
        to_code = (error * 2 / error.numel()) @ p["decoder"].T
        excess = active.sum() / len(batch.x) / 4 - 1
        weight = 0.7 * min(1.0, STEP.progress / config.warm_up)
        by_level = -(threshold * to_code + weight * 2 * excess / 4 / len(batch.x)) * window / (2 * half)
        expected = by_level.sum(0) * threshold * config.threshold_rate
        assert torch.allclose(architecture.gradient("slow_log_threshold"), expected, atol=1e-5)
        assert torch.allclose(architecture.gradient("b_enc"), (to_code * active).sum(0), atol=1e-5)


@torch.no_grad()
def test_gated_reconstructs_by_gate_and_magnitude_and_folds_into_thresholds() -> None:
    architecture, _ = built(small(GatedConfig()))
    assert isinstance(architecture, Gated)
    draw, p = torch.Generator().manual_seed(1), architecture.parameters
    p["scale"].copy_(torch.randn(D_SAE, generator=draw) / 2)
    p["b_magnitude"].copy_(torch.randn(D_SAE, generator=draw) / 2)
    x = some_batch(architecture).x
    linear = x @ p["encoder"].T
    magnitude = (linear * p["scale"].exp() + p["b_magnitude"]).relu()
    expected = magnitude * (linear + p["b_enc"] > 0)
    assert torch.allclose(dense(architecture.forward(x).code), expected, atol=1e-4)
    assert torch.allclose(dense(architecture.dictionary().encode(x)), expected, atol=1e-4)


@pytest.mark.parametrize("config", [JumpReLUConfig(), GatedConfig()], ids=lambda config: config.name)
def test_the_number_of_active_features_ends_near_k(config: JumpReLUConfig | GatedConfig) -> None:
    architecture, start = built(small(replace(config, restarts=0)))
    training = Training(architecture, start.random, steps=400)
    training.over(sample())
    active = (training.dictionary().encode(sample().x.float()).values > 0).sum(-1).float().mean()
    assert active.item() == pytest.approx(4, rel=0.2)


def test_batchtopk_goes_on_with_its_threshold_from_a_snapshot() -> None:
    architecture, start = built(small(BatchTopKConfig()))
    training = Training(architecture, start.random, steps=20)
    training.over(sample())
    other, again = built(small(BatchTopKConfig()))
    resumed = Training(other, again.random, steps=20)
    resumed.load_state(training.state())
    assert isinstance(other, BatchTopK)
    assert torch.equal(other.buffers["threshold"], architecture.buffers["threshold"])
    assert other.buffers["threshold"] > 0
