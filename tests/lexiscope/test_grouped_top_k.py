import pytest
import torch

from lexiscope.grouped_top_k import GROUP, UNGROUPED, grouped_top_k


@pytest.mark.parametrize("m", [5, UNGROUPED, UNGROUPED + 1, 4096, 8 * GROUP * GROUP * GROUP + 3, 20_011])
@pytest.mark.parametrize("k", [1, 5, 200])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_same_values_as_a_sort(m: int, k: int, dtype: torch.dtype) -> None:
    k = min(k, m)
    wide = torch.randn(7, m + 3, generator=torch.Generator().manual_seed(m + k)).to(dtype)
    rows = wide[:, :m]  # not contiguous, as a part of a scratch buffer is
    values, columns = grouped_top_k(rows, k)
    assert torch.equal(values, rows.topk(k, dim=-1).values)
    assert torch.equal(rows.gather(1, columns), values)
    assert all(len(set(row)) == k for row in columns.tolist())


def test_equal_values_are_taken_once_each() -> None:
    """Rounding makes many products equal."""
    rows = torch.ones(3, 9000, dtype=torch.bfloat16)
    rows[:, ::2] = -torch.inf
    values, columns = grouped_top_k(rows, 50)
    assert (values == 1).all()
    assert all(len(set(row)) == 50 for row in columns.tolist())
    assert (columns % 2 == 1).all()


def test_no_rows() -> None:
    values, columns = grouped_top_k(torch.zeros(0, 5000), 4)
    assert values.shape == columns.shape == (0, 4)


def test_the_gradient_reaches_what_was_taken() -> None:
    rows = torch.randn(2, 5000, generator=torch.Generator().manual_seed(0), requires_grad=True)
    values, columns = grouped_top_k(rows, 6)
    values.sum().backward()
    assert rows.grad is not None
    assert torch.equal(rows.grad, torch.zeros(2, 5000).scatter(1, columns, 1.0))
