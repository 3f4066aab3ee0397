"""Each method of the literature against a slow and obvious form of it, in plain PyTorch."""

import pytest
import torch
from torch import Tensor

from tests.trainer.test_architectures import D_SAE, STEP, built, small, some_batch
from trainer.architectures import Architecture
from trainer.architectures.base import Step
from trainer.architectures.hierarchical import HierarchicalConfig
from trainer.architectures.ortsae import OrtSAEConfig
from trainer.errors import RecipeError


def copies(architecture: Architecture) -> dict[str, Tensor]:
    """The parameters, apart from the architecture's graph; decoder rows of norm 1 whatever they are."""
    found = {name: t.detach().clone().requires_grad_() for name, t in architecture.parameters.items()}
    return found


def unit(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=-1, keepdim=True)


def assert_gradients(architecture: Architecture, loss: Tensor, of: dict[str, Tensor]) -> None:
    """The architecture's gradients are those of `loss` in copies of its parameters."""
    loss.backward()
    with torch.no_grad():
        made = architecture.gradients(some_batch(architecture), STEP)
    assert sum(float(each) for each in made.losses.values()) == pytest.approx(loss.item(), rel=1e-4)
    for name, copy in of.items():
        expected = torch.zeros_like(copy) if copy.grad is None else copy.grad
        assert torch.allclose(expected, architecture.gradient(name), atol=1e-5), name


@pytest.mark.parametrize(
    ("budgets", "weights", "expected"),
    [
        ("all", "uniform", {1: 0.25, 2: 0.25, 3: 0.25, 4: 0.25}),
        ("doubling", "reverse", {1: 3 / 6, 2: 2 / 6, 4: 1 / 6}),
        ("3,4", "uniform", {3: 0.5, 4: 0.5}),
    ],
)
def test_hierarchical_is_the_mean_error_of_every_prefix(
    budgets: str, weights: str, expected: dict[int, float]
) -> None:
    config = HierarchicalConfig(budgets=budgets, weights=weights, k=4, dense_rank=2)  # type: ignore[arg-type]
    architecture, _ = built(config)
    architecture.matmul_dtype = torch.float32
    p, x = copies(architecture), some_batch(architecture).x
    loss = torch.zeros(())
    for budget, share in expected.items():
        values, indices = (x @ p["encoder"].T + p["b_enc"]).topk(budget)
        code = torch.zeros(len(x), D_SAE).scatter(1, indices, values.relu())
        output = code @ unit(p["decoder"]) + x @ p["dense_in"] @ p["dense_out"] + p["b_dec"]
        loss = loss + share * (output - x).square().mean()
    assert_gradients(architecture, loss, p)


@pytest.mark.parametrize("budgets", ["", "1,2", "2,1,4", "0,4", "some"])
def test_budgets_that_do_not_ascend_to_k_are_refused(budgets: str) -> None:
    with pytest.raises(RecipeError, match="budgets is"):
        HierarchicalConfig(budgets=budgets, k=4)


def test_ortsae_adds_its_penalty_in_every_fifth_step() -> None:
    architecture, _ = built(small(OrtSAEConfig(gamma=0.5)))
    batch = some_batch(architecture)
    losses = {number: architecture.gradients(batch, Step(number, 10)).losses for number in (4, 5)}
    rows = unit(architecture.parameters["decoder"].detach())
    largest = (rows @ rows.T).fill_diagonal_(-1).max(1).values
    assert "orthogonality" not in losses[4]
    assert losses[5]["orthogonality"].item() == pytest.approx(2.5 * largest.square().mean().item(), rel=1e-4)
