"""p-values of counts, and q-values of many of them."""

import torch
from torch import Tensor


def frequency_bins(occurrences: Tensor) -> Tensor:
    """[n] names of one bin are as frequent as each other within a factor of two."""
    return occurrences.double().add(1).log2().long()


def better_of(p: Tensor, other: Tensor) -> Tensor:
    """The p-value of the better of two tests."""
    return (2 * torch.minimum(p, other)).clamp_max(1)


def pooled_rate(hits: Tensor, trials: Tensor, bins: Tensor) -> Tensor:
    """[n] the pooled rate of each element's bin."""
    size = int(bins.max()) + 1
    return (torch.bincount(bins, hits, size) / torch.bincount(bins, trials, size).clamp_min(1))[bins]


def poisson_tail(hits: Tensor, expected: Tensor) -> Tensor:
    """P(X ≥ hits) for X ~ Poisson(expected): the regularised lower incomplete gamma function P(hits,
    expected).
    """
    tail = torch.special.gammainc(hits.clamp_min(1), expected.clamp_min(1e-12))
    return torch.where(hits > 0, tail, torch.ones_like(tail))


def benjamini_hochberg(p: Tensor, tested: Tensor) -> Tensor:
    """q-values [n] of p [n] over the elements of `tested` [n] bool (Benjamini & Hochberg 1995); 1
    elsewhere.
    """
    q = torch.ones_like(p)
    some = p[tested]
    if len(some):
        order = some.argsort()
        ranked = some[order] * len(some) / torch.arange(1, len(some) + 1, dtype=p.dtype, device=p.device)
        smallest = ranked.flip(0).cummin(0).values.flip(0).clamp_max(1)
        found = torch.empty_like(smallest)
        found[order] = smallest
        q[tested] = found
    return q
