"""Encoding and decoding have the gradients of a dense code, in rows that fired alone."""

import pytest
import torch
from torch import Tensor

from lexiscope.sparse_code import top_k
from trainer import sparse

N, D, D_SAE, K = 7, 5, 20, 3


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def losses(code: Tensor, output: Tensor) -> Tensor:
    """Some loss on both the code and what it decodes to."""
    return (output - 0.3).pow(4).sum() + code.sqrt().where(code > 0, 0).sum()


@pytest.mark.parametrize("unit_rows", [False, True])
def test_any_loss_on_a_code_has_the_gradients_of_the_dense_code(unit_rows: bool) -> None:
    given = [draw(N, D), draw(D_SAE, D, seed=1), draw(D_SAE, seed=2), draw(D_SAE, D, seed=3)]
    given[3] = torch.nn.functional.normalize(given[3], dim=-1)
    sparse_leaves, dense_leaves = ([t.clone().requires_grad_() for t in given] for _ in range(2))

    x, encoder, bias, decoder = sparse_leaves
    with torch.no_grad():
        selected = top_k(x @ encoder.T + bias, K)
    code = sparse.encode(x, encoder, bias, selected)
    losses(code.values, sparse.decode(code, decoder, unit_rows=unit_rows)).backward()

    x, encoder, bias, decoder = dense_leaves
    values, indices = (x @ encoder.T + bias).topk(K)
    rows = decoder / decoder.norm(dim=-1, keepdim=True) if unit_rows else decoder
    dense = torch.zeros(N, D_SAE).scatter(1, indices, values.relu())
    losses(values.relu(), dense @ rows).backward()

    for mine, theirs in zip(sparse_leaves, dense_leaves, strict=True):
        assert torch.allclose(mine.grad, theirs.grad, atol=1e-4)
    silent = torch.ones(D_SAE, dtype=torch.bool)
    silent[selected.indices[selected.values > 0]] = False
    assert silent.any() and not sparse_leaves[1].grad[silent].any()


def test_entries_may_have_a_gradient_where_their_value_is_zero() -> None:
    x, encoder, bias = (
        draw(N, D),
        draw(D_SAE, D, seed=1).requires_grad_(),
        draw(D_SAE, seed=2).requires_grad_(),
    )
    with torch.no_grad():
        pre = x @ encoder.T + bias
    selected = top_k(-pre.abs(), K)  # values are cut off at 0
    active = torch.ones_like(selected.values, dtype=torch.bool)
    sparse.encode(x, encoder, bias, selected, active=active).values.sum().backward()
    counts = torch.bincount(selected.indices.flatten(), minlength=D_SAE)
    assert torch.equal(bias.grad, counts.float())
    assert not sparse.encode(x, encoder, bias, selected).values.sum().backward() and bias.grad.equal(counts)
