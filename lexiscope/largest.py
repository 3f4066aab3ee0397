"""The largest inner products of many rows with a vocabulary's worth of columns: nearest anchors, logit
effects, families of tokens.

In: rows [n, d] and columns [m, d]; out: the k largest products of each row, as in float32, without [n, m]
products in memory. Where bf16 is fast (`lexiscope.precision`) it finds candidates, whose products are
computed again in float32. A row for which rounding could have hidden one of its largest is multiplied in
float32 as a whole.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lexiscope.grouped_top_k import grouped_top_k
from lexiscope.precision import fast_dtype

ROWS, COLUMNS = 1024, 8192
"""of a block: its products stay in cache"""
SPARE = 10
"""Candidates beyond the k that are asked for."""
SMALL = 1 << 26
"""Multiplications below which candidates are not worth their overhead."""
GATHERED = 128
"""Rows whose candidates are multiplied at once."""


class Largest(NamedTuple):
    """The k largest products of n rows, the largest first; or the k smallest, the smallest first."""

    values: Tensor
    """[n, k] float32"""
    indices: Tensor
    """[n, k] of the columns"""


class Extremes(NamedTuple):
    """Both ends of the products of n rows, and where one column of each stands among them."""

    highest: Largest
    lowest: Largest
    rank: Tensor
    """[n] products above that of the row's own column, 0 = the largest. Where bf16 finds candidates, ranks
    from k on are counted in bf16.
    """


class Columns:
    """Columns [m, d] that rows are multiplied with, in the precision that is fast for them."""

    def __init__(self, columns: Tensor, *, dtype: torch.dtype | None = None) -> None:
        """`dtype` finds the candidates; by default the fast one of the columns' device."""
        self.exact = columns.float()
        dtype = fast_dtype(columns.device) if dtype is None else dtype
        self._fast = self.exact.to(dtype) if dtype is not torch.float32 else None
        self._longest = float(self.exact.norm(dim=-1).max()) if len(columns) else 0.0

    def __len__(self) -> int:
        return len(self.exact)

    def largest(self, rows: Tensor, k: int) -> Largest:
        """The k largest products of rows [n, d], at most m."""
        k = min(k, len(self))
        parts = [self._largest(part, k) for part in rows.float().split(ROWS)]
        return _joined(parts, rows, k)

    def extremes(self, rows: Tensor, k: int, own: Tensor) -> Extremes:
        """The k largest and k smallest products of rows [n, d], and the rank of column own [n] of each."""
        k = min(k, len(self))
        highest, lowest, ranks = [], [], []
        for part, column in zip(rows.float().split(ROWS), own.split(ROWS), strict=True):
            level = (part * self.exact[column]).sum(-1)
            if self._finds_candidates(part, k):
                up, down = _Candidates(k + SPARE), _Candidates(k + SPARE)
                rank = torch.zeros(len(part), dtype=torch.long)
                for first, products in self._products(part):
                    up.add(first, products)
                    rank += _above(products, level)
                    down.add(first, products.neg_())
                best = self._settled(part, k, up)
                highest.append(best)
                worst = self._settled(-part, k, down)
                lowest.append(Largest(-worst.values, worst.indices))
                among = (best.indices == column[:, None]).int().argmax(-1).cpu()
                is_best = (best.indices == column[:, None]).any(-1).cpu()
                ranks.append(torch.where(is_best, among, rank.clamp_min(k)))
                continue
            products = part @ self.exact.T
            highest.append(Largest(*grouped_top_k(products, k)))
            ranks.append(_above(products, products.gather(1, column[:, None]).squeeze(1)))
            fallen, indices = grouped_top_k(products.neg_(), k)
            lowest.append(Largest(-fallen, indices))
        rank = torch.cat(ranks) if ranks else torch.zeros(0, dtype=torch.long)
        return Extremes(_joined(highest, rows, k), _joined(lowest, rows, k), rank)

    def _finds_candidates(self, part: Tensor, k: int) -> bool:
        work = len(part) * self.exact.numel()
        return self._fast is not None and work >= SMALL and len(self) > 2 * (k + SPARE)

    def _largest(self, part: Tensor, k: int) -> Largest:
        if not self._finds_candidates(part, k):
            return Largest(*grouped_top_k(part @ self.exact.T, k))
        found = _Candidates(k + SPARE)
        for first, products in self._products(part):
            found.add(first, products)
        return self._settled(part, k, found)

    def _products(self, part: Tensor) -> Iterator[tuple[int, Tensor]]:
        assert self._fast is not None
        fast = part.to(self._fast.dtype)
        for first in range(0, len(self), COLUMNS):
            yield first, fast @ self._fast[first : first + COLUMNS].T

    def _settled(self, part: Tensor, k: int, found: "_Candidates") -> Largest:
        """The k largest of the candidates, in float32; of all columns where a candidate may be missing."""
        values, indices = found.best()
        exact = torch.cat(
            [
                torch.bmm(self.exact[chosen], row[..., None]).squeeze(-1)
                for row, chosen in zip(part.split(GATHERED), indices.split(GATHERED), strict=True)
            ]
        )
        kept, place = exact.topk(k, dim=-1)
        indices = indices.gather(1, place)
        missed = values[:, -1].abs() * 2**-8 + self._rounding(part)
        unsure = (kept[:, -1] < values[:, -1] + missed).nonzero().squeeze(1)
        if len(unsure):
            kept[unsure], indices[unsure] = grouped_top_k(part[unsure] @ self.exact.T, k)
        return Largest(kept, indices)

    def _rounding(self, part: Tensor) -> Tensor:
        """[n] what rounding both factors to eight bits changes a product by: at most 2⁻⁸ of the norms'
        product (Cauchy and Schwarz); six standard deviations of d independent errors where that is less.
        """
        worst = part.norm(dim=-1)
        likely = 6 * (2 / 3) ** 0.5 * part.abs().amax(-1) / 2
        return torch.minimum(worst, likely) * (self._longest * 2**-8)


class _Candidates:
    """The best of one block of products after another."""

    def __init__(self, n: int) -> None:
        self._n = n
        self._values: list[Tensor] = []
        self._indices: list[Tensor] = []

    def add(self, first: int, products: Tensor) -> None:
        """products [n, columns] with the columns from `first` on."""
        values, indices = grouped_top_k(products, min(self._n, products.shape[1]), descending=False)
        self._values.append(values.float())
        self._indices.append(indices + first)

    def best(self) -> Largest:
        values, place = torch.cat(self._values, 1).topk(self._n, dim=-1)
        return Largest(values, torch.cat(self._indices, 1).gather(1, place))


def _above(products: Tensor, level: Tensor) -> Tensor:
    """[n] how many of products [n, m] are above level [n]."""
    if products.is_cuda:
        return (products > level[:, None]).sum(-1).cpu()
    if products.dtype is torch.bfloat16:
        level = _rounded_down(level)
    above = (products > level[:, None]).numpy()
    return torch.tensor([int(np.count_nonzero(row)) for row in above])  # along an axis it is 60 times slower


def _rounded_down(values: Tensor) -> Tensor:
    """The largest bf16 numbers that are not above `values`."""
    rounded = values.bfloat16()
    below = torch.nextafter(rounded, torch.full_like(rounded, -torch.inf))
    return torch.where(rounded.float() > values, below, rounded)


def _joined(parts: list[Largest], rows: Tensor, k: int) -> Largest:
    if not parts or not len(rows):
        return Largest(rows.new_zeros(0, k).float(), torch.zeros(0, k, dtype=torch.long, device=rows.device))
    return Largest(*(torch.cat(column) for column in zip(*parts, strict=True)))
