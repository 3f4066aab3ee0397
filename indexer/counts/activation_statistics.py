"""Counts of every feature of one dictionary: firings, moments of the activation, and histograms of activation
and position.
"""

import numpy as np

from indexer.counts.exact_sum import DROPPED, ExactSum
from indexer.counts.text_chunk import TextChunk
from lexiscope.evidence import FlatFirings

EDGES = np.round(10 ** np.linspace(-2, 3, 31), 6)
"""31 edges of 30 logarithmic bins. Activations are in scaled units (mean-square norm d); values outside go to
the end bins.
"""
BINS = len(EDGES) - 1
POWERS = 4
ROUNDING = 2.0**-44
"""At most this part of a block's sum is lost to float64."""
CERTAIN = 0.01
"""Skewness and kurtosis are given where rounding changes them by less."""


def position_edges(length: int) -> np.ndarray:
    """1, 2, 4, … up to the first edge past the last position of a passage of `length` tokens."""
    return 2 ** np.arange(max(1, int(np.ceil(np.log2(max(length, 2))))) + 1)


_UPPER = np.concatenate([EDGES[1:-1], [np.inf]]).astype(np.float32)
_STARTS = (np.arange(1 << 16, dtype=np.uint32) << 16).view(np.float32)
_COARSE = np.clip(
    np.searchsorted(EDGES.astype(np.float32), np.nan_to_num(_STARTS), side="right") - 1, 0, BINS - 1
)
"""The bin of the smallest float32 with each upper 16 bits. The largest such float32 is in this bin or the
next.
"""


def bins(values: np.ndarray) -> np.ndarray:
    """The histogram bin of each positive float32: a table look-up, which is faster than a binary search."""
    coarse = _COARSE.take(values.view(np.uint32) >> np.uint32(16))
    return coarse + (values >= _UPPER.take(coarse))


def _table(rows: np.ndarray, columns: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """How often each (row, column) occurs."""
    counts = np.bincount(rows * shape[1] + columns, minlength=shape[0] * shape[1])
    return counts.reshape(shape).astype(np.int32)


class ActivationStatistics:
    """Merged by addition (`max` by maximum)."""

    PARTS = ("count", "negative", "max", "histogram", "positions", "logit_hits")

    def __init__(self, d_sae: int, n_position_bins: int) -> None:
        self.d_sae = d_sae
        self.count = np.zeros(d_sae, np.int64)
        self.powers = ExactSum(POWERS, d_sae)
        """Σ z, Σ z², Σ z³, Σ z⁴ of the activations z"""
        self.max = np.zeros(d_sae, np.float32)
        """the greatest magnitude"""
        self.negative = np.zeros(d_sae, np.int64)
        """firings below 0, which only a signed dictionary has"""
        self.histogram = np.zeros((d_sae, BINS), np.int32)
        self.positions = np.zeros((d_sae, n_position_bins), np.int32)
        self.logit_hits = np.zeros(d_sae, np.int64)
        """firings followed by the token whose logit the direction raises most"""

    def add(self, firings: FlatFirings, chunk: TextChunk, logit_tokens: np.ndarray) -> None:
        """logit_tokens [d_sae] the token whose logit each direction raises most."""
        feature, size = firings.feature, self.d_sae
        self.count += np.bincount(feature, minlength=size)
        value = firings.value.astype(np.float64)
        power = value.copy()
        sums = [np.bincount(feature, power, size)]
        for _ in range(1, POWERS):
            power *= value
            sums.append(np.bincount(feature, power, size))
        self.powers.add(np.stack(sums))
        size_of = np.abs(firings.value)
        self.negative += np.bincount(feature[firings.value < 0], minlength=size)
        higher = np.flatnonzero(size_of > self.max.take(feature))
        np.maximum.at(self.max, feature[higher], size_of[higher])
        self.histogram += _table(feature, bins(size_of), self.histogram.shape)
        self.positions += _table(feature, chunk.position_bin.take(firings.at), self.positions.shape)
        follows = chunk.following.take(firings.at) == logit_tokens.take(feature)
        self.logit_hits += np.bincount(feature[follows], minlength=size)

    def absorb(self, other: "ActivationStatistics") -> None:
        self.count += other.count
        self.negative += other.negative
        self.powers.limbs += other.powers.limbs
        np.maximum(self.max, other.max, out=self.max)
        self.histogram += other.histogram
        self.positions += other.positions
        self.logit_hits += other.logit_hits

    @property
    def squares(self) -> np.ndarray:
        """[d_sae] Σ z²; times ‖d‖² it is the energy."""
        return self.powers.value()[1]

    def measures(self, n_tokens: int) -> dict[str, np.ndarray]:
        """Those of `lexiscope.measures.FEATURE` by name, each [d_sae]; NaN where the moments need more
        firings, or more spread than rounding leaves. `n_tokens`: positions of the text.
        """
        mean, second, third, fourth = self.powers.value() / np.maximum(self.count, 1)
        variance = second - mean**2
        spread = (self.count > 1) & (variance > 1e-9 * second)
        std = np.sqrt(np.where(spread, variance, np.nan))
        lost = 16 * (ROUNDING * fourth + DROPPED)  # of the fourth central moment; the third loses less
        shaped = np.where(lost < CERTAIN * std**4, std, np.nan)
        return {
            "density": self.count / max(n_tokens, 1),
            "n_firings": self.count,
            "negative_share": self.negative / np.maximum(self.count, 1),
            "mean_activation": mean,
            "max_activation": self.max,
            "std_activation": std,
            "skewness": (third - 3 * mean * second + 2 * mean**3) / shaped**3,
            "kurtosis": (fourth - 4 * mean * third + 6 * mean**2 * second - 3 * mean**4) / shaped**4 - 3,
        }
