"""The largest products are those of float32, whichever precision found them."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lexiscope import largest
from lexiscope.largest import Columns


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["float32", "bf16"])
def dtype(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> torch.dtype:
    """Either precision, on products small enough for a test, in blocks smaller than they are."""
    monkeypatch.setattr(largest, "SMALL", 0)
    monkeypatch.setattr(largest, "ROWS", 100)
    monkeypatch.setattr(largest, "COLUMNS", 300)
    return request.param


def sample(n: int, m: int, d: int = 32) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    return torch.randn(n, d, generator=draw), F.normalize(torch.randn(m, d, generator=draw), dim=-1)


def test_the_largest_products_are_those_of_float32(dtype: torch.dtype) -> None:
    rows, columns = sample(250, 1000)
    expected = (rows @ columns.T).topk(7, dim=-1)
    found = Columns(columns, dtype=dtype).largest(rows, 7)
    assert torch.allclose(found.values, expected.values, atol=1e-5)
    assert (found.indices == expected.indices).float().mean() > 0.999  # but for ties within rounding


def test_columns_that_bf16_cannot_tell_apart_are_told_apart(dtype: torch.dtype) -> None:
    rows, columns = sample(50, 1000)
    columns[:500] = columns[:1] * (1 + 1e-5 * torch.arange(500.0))[:, None]  # more than there are candidates
    expected = (rows @ columns.T).topk(3, dim=-1)
    found = Columns(columns, dtype=dtype).largest(rows, 3)
    assert torch.allclose(found.values, expected.values, rtol=1e-6, atol=1e-6)


def test_both_ends_and_the_rank_of_a_rows_own_column(dtype: torch.dtype) -> None:
    rows, columns = sample(120, 1000)
    products = rows @ columns.T
    own = torch.cat([products.argsort(-1, descending=True)[:60, 2], torch.randint(1000, (60,))])
    found = Columns(columns, dtype=dtype).extremes(rows, 5, own)
    assert torch.allclose(found.highest.values, products.topk(5).values, atol=1e-5)
    assert torch.allclose(found.lowest.values, products.topk(5, largest=False).values, atol=1e-5)
    assert (found.lowest.indices == products.topk(5, largest=False).indices).float().mean() > 0.99
    rank = (products > products.gather(1, own[:, None]) + 1e-6).sum(-1)
    assert found.rank[:60].tolist() == rank[:60].tolist() == [2] * 60
    assert ((found.rank - rank).abs() <= 1 + 0.05 * rank).all()


def test_more_than_there_are_is_all_of_them_and_no_rows_give_none(dtype: torch.dtype) -> None:
    rows, columns = sample(3, 5)
    found = Columns(columns, dtype=dtype).largest(rows, 9)
    assert found.indices.sort(-1).values.tolist() == [list(range(5))] * 3
    nothing = Columns(columns, dtype=dtype).extremes(rows[:0], 2, torch.zeros(0, dtype=torch.long))
    assert nothing.highest.values.shape == (0, 2)
    assert len(nothing.rank) == 0
