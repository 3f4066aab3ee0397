"""Held-out metrics (docs/method.md#definitions), each defined once: streaming sums in, one number out.

Units: cross-entropies and KL in nats a token; shares in [0, 1]. Position 0 is in no sum.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lexiscope.anchors import ALIGNED
from lexiscope.dictionary import Parts
from lexiscope.errors import LexiscopeError
from lexiscope.sparse_code import SparseCode

LIVE_RATE = 1e-5
"""A feature is live when it fires on at least this share of the tokens."""


class ReconstructionSums:
    """Sums over the whole set behind FVE, NMSE, L0 and the shares of the dense path and the look-up. Merged
    by addition.
    """

    def __init__(self, d_in: int, device: torch.device | str = "cpu") -> None:
        self.n = 0
        self.active = 0
        self.x, self.dense, self.lookup, self.x_hat = (
            torch.zeros(d_in, dtype=torch.float64, device=device) for _ in range(4)
        )
        self.error = self.x_norm = self.x_x_hat = self.x_dense = self.x_lookup = 0.0

    def add(self, x: Tensor, parts: Parts, code: SparseCode) -> Tensor:
        """x [n, d_in] raw, its reconstruction in parts, and its code; returns the reconstruction."""
        dense, lookup = parts.dense, parts.lookup
        x_hat = parts.whole
        self.n += len(x)
        self.active += int((code.values != 0).sum())
        self.x += x.sum(0, dtype=torch.float64)
        self.dense += dense.sum(0, dtype=torch.float64)
        self.lookup += lookup.expand_as(x).sum(0, dtype=torch.float64)
        self.x_hat += x_hat.sum(0, dtype=torch.float64)
        self.error += (x - x_hat).square().sum(dtype=torch.float64).item()
        self.x_norm += x.square().sum(dtype=torch.float64).item()
        self.x_x_hat += (x * x_hat).sum(dtype=torch.float64).item()
        self.x_dense += (x * dense).sum(dtype=torch.float64).item()
        self.x_lookup += (x * lookup).sum(dtype=torch.float64).item()
        return x_hat

    @property
    def l0(self) -> float:
        """Mean non-zero features a token."""
        return self.active / self.n

    @property
    def nmse(self) -> float:
        """Σ‖x − x̂‖² / Σ‖x − μ‖², both sums over the whole set."""
        return self.error / (self.x_norm - float(self.x @ self.x) / self.n)

    @property
    def fve(self) -> float:
        return 1 - self.nmse

    @property
    def dense_share(self) -> float:
        """Σ⟨x − μ, D − D̄⟩ / Σ⟨x − μ, x̂ − x̂̄⟩: the dense path's part of the covariance with x; adds to 1
        with the sparse part's and the look-up's.
        """
        return self._share(self.x_dense, self.dense)

    @property
    def lookup_share(self) -> float:
        """As `dense_share`, of the token look-up."""
        return self._share(self.x_lookup, self.lookup)

    def _share(self, x_part: float, part: Tensor) -> float:
        whole = self.x_x_hat - float(self.x @ self.x_hat) / self.n
        covariance = x_part - float(self.x @ part) / self.n
        return covariance / whole if whole else 0.0


class FiringSums:
    """Per feature: firings and Σ z² (times ‖d‖² it is the energy). Merge by addition."""

    def __init__(self, d_sae: int, device: torch.device | str = "cpu") -> None:
        self.n = 0
        self.firings = torch.zeros(d_sae, dtype=torch.long, device=device)
        self.squares = torch.zeros(d_sae, dtype=torch.float64, device=device)

    def add(self, code: SparseCode) -> None:
        self.n += len(code.values)
        fired = code.values != 0
        indices = code.indices[fired]
        self.firings += torch.bincount(indices, minlength=len(self.firings))
        self.squares += torch.bincount(
            indices, code.values[fired].double().square(), minlength=len(self.firings)
        )

    @property
    def live(self) -> Tensor:
        """[d_sae] bool: firing rate ≥ LIVE_RATE."""
        return self.firings >= max(1.0, LIVE_RATE * self.n)


class Alignment(NamedTuple):
    """Shares of features at cosine ≥ 0.8 to their nearest anchor."""

    all: float
    live: float
    firing: float
    """live features weighted by activation count"""
    energy: float
    """live features weighted by Σ ‖z_i d_i‖²"""


def alignment(cosines: Tensor, live: Tensor, firings: Tensor, energy: Tensor) -> Alignment:
    """cosines, live, firings and energy are [d_sae]."""
    aligned = cosines >= ALIGNED
    return Alignment(
        all=aligned.float().mean().item(),
        live=weighted_share(aligned, live),
        firing=weighted_share(aligned, firings * live),
        energy=weighted_share(aligned, energy * live),
    )


def weighted_share(holds: Tensor, weight: Tensor) -> float:
    """Σ weight · holds by Σ weight, for `holds` bool or a share in [0, 1]; 0 where there is no weight."""
    weight = weight.double()
    return float((weight * holds).sum() / weight.sum()) if weight.sum() else 0.0


def coverage(names: Tensor, aligned_live: Tensor, counts: Tensor) -> float:
    """Of the distinct tokens that occur (counts [vocab] > 0), the share that names a live aligned feature."""
    named = torch.zeros(len(counts), dtype=torch.bool, device=counts.device)
    named[names[aligned_live]] = True
    return weighted_share(named, counts > 0)


def cross_entropy(logits: Tensor, following: Tensor) -> Tensor:
    """[n] nats of each next token; logits [n, vocab], following [n]."""
    return F.cross_entropy(logits.float(), following, reduction="none")


def kl(default: Tensor, other: Tensor) -> Tensor:
    """[n] KL(default ‖ other) in nats, from logits [n, vocab]."""
    p = default.float().log_softmax(-1)
    return (p.exp() * (p - other.float().log_softmax(-1))).sum(-1)


def ce_recovered(ce: float, ce_sae: float, ce_ablated: float) -> float:
    """(CE_ablated − CE_sae) / (CE_ablated − CE): 1 is a perfect reconstruction, 0 is as bad as the
    ablation.
    """
    return (ce_ablated - ce_sae) / (ce_ablated - ce) if ce_ablated != ce else 0.0


DRAWS = 2000
"""Bootstrap resamples behind every interval."""


def bootstrap_mean(sums: Tensor, counts: Tensor, *, draws: int = DRAWS, seed: int = 0) -> tuple[float, float]:
    """95 % interval of Σ sums / Σ counts over resampled passages: sums and counts [passages] (paired
    differences a passage).

    Percentile bootstrap (Efron 1979); the passage is the unit, because tokens of one passage are not
    independent.
    """
    drawn = _resampled(torch.stack([sums, counts], 1).double(), draws, seed)
    return _interval(drawn[:, 0] / drawn[:, 1])


class Ratio(NamedTuple):
    """A ratio of two runs with its 95 % interval."""

    value: float
    low: float
    high: float


def paired_ratio(
    a: Sequence[Sequence[float]], b: Sequence[Sequence[float]], *, draws: int = DRAWS, seed: int = 0
) -> Ratio:
    """ΔCE of a over ΔCE of b, from their `passage_delta_ce`: [Σ difference in nats, tokens] a passage, the
    same passages in both.

    Every resample draws the same passages for both, so that the difficulty of a passage cancels. Raises
    LexiscopeError where the passages differ.
    """
    first, second = torch.tensor(a, dtype=torch.float64), torch.tensor(b, dtype=torch.float64)
    if first.ndim != 2 or first.shape != second.shape or not torch.equal(first[:, 1], second[:, 1]):
        raise LexiscopeError(
            f"Runs evaluated on different passages ({len(first)} and {len(second)}) cannot be paired."
        )
    drawn = _resampled(torch.stack([first[:, 0], second[:, 0]], 1), draws, seed)
    low, high = _interval(drawn[:, 0] / drawn[:, 1])
    return Ratio(float(first[:, 0].sum() / second[:, 0].sum()), low, high)


def _resampled(columns: Tensor, draws: int, seed: int) -> Tensor:
    """[draws, m] sums of `columns` [passages, m] over passages drawn with replacement."""
    generator = torch.Generator().manual_seed(seed)
    n, columns = len(columns), columns.cpu()
    parts = [
        columns[torch.randint(n, (min(100, draws - at), n), generator=generator)].sum(1)
        for at in range(0, draws, 100)
    ]
    return torch.cat(parts)


def _interval(values: Tensor) -> tuple[float, float]:
    low, high = values.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high


class NamedRun(NamedTuple):
    """The names and firings of one run, for name stability."""

    names: Tensor
    """[d_sae] token ids, −1 for none"""
    directions: Tensor
    """[d_sae, d_in] unit norm"""
    firings: Tensor
    """[d_sae] held-out firings"""
    live: Tensor
    """[d_sae] bool"""


class Stability(NamedTuple):
    """How many names of run a recur in run b, as shares of the tokens that name a live feature of a."""

    recurs: float
    """the nearest live feature of b to the most-firing feature of that name has the same name"""
    named: float
    """the token names some live feature of b"""
    tokens: int
    """how many tokens name a live feature of a"""


def name_stability(a: NamedRun, b: NamedRun) -> Stability:
    """Whether the names of run a recur in run b (another seed); nearest is by decoder cosine. Not symmetric:
    average both ways.

    The mean best cosine (Paulo & Belrose 2025, arXiv 2501.16615) measures whether features recur; this
    measures whether their names do.
    """
    live = (a.live & (a.names >= 0)).nonzero().squeeze(1)
    other = b.live.nonzero().squeeze(1)
    by_firing = live[a.firings[live].argsort(descending=True, stable=True)]
    by_name = by_firing[a.names[by_firing].argsort(stable=True)]
    tokens, times = torch.unique_consecutive(a.names[by_name], return_counts=True)
    first = by_name[times.cumsum(0) - times]
    if not len(tokens) or not len(other):
        return Stability(0.0, 0.0, len(tokens))
    others = b.directions[other].T
    nearest = torch.cat([(part @ others).argmax(-1) for part in a.directions[first].split(1024)])
    recurs = b.names[other[nearest]] == tokens
    return Stability(
        recurs.double().mean().item(), torch.isin(tokens, b.names[other]).double().mean().item(), len(tokens)
    )
