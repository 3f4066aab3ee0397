"""Which features of two layers fire on the same positions, over a bounded sample of the text.

The sample is the POSITIONS encoded positions of lowest hash: the lowest of a whole are among the lowest of
its parts, so any split of a text ends with the same ones.
"""

import numpy as np

from indexer.counts.firings import Fired
from indexer.counts.positions import Stretch

POSITIONS = 16_384
LEAST = 3
"""Common positions that two features need to be called a match."""
BEST = 3
PAIRS = 40_000_000
"""Pairs of firings counted for two dictionaries; where codes are so dense that the sample has more, fewer
positions are used.
"""


class SampledPositions:
    """The hashes of the positions sampled so far; shared by all dictionaries of a model."""

    PARTS = ("hashes",)

    def __init__(self) -> None:
        self.hashes = np.zeros(0, np.uint64)

    @property
    def cutoff(self) -> np.uint64:
        """The highest hash that is in."""
        return self.hashes[-1] if len(self.hashes) == POSITIONS else np.uint64(2**64 - 1)

    def add(self, hashes: np.ndarray) -> None:
        self.hashes = np.sort(np.concatenate([self.hashes, hashes[hashes <= self.cutoff]]))[:POSITIONS]


class SampledFirings:
    """What one dictionary fires on the sampled positions."""

    PARTS = ("hashes", "features")

    def __init__(self) -> None:
        self.hashes = np.zeros(0, np.uint64)
        self.features = np.zeros(0, np.int32)

    def add(self, found: Fired, stretch: Stretch, cutoff: np.uint64) -> None:
        """`cutoff` after the stretch's own positions were added to the sample."""
        rows = np.flatnonzero((stretch.chance <= cutoff).take(found.at))
        self._take(stretch.chance[found.at[rows]], found.feature[rows].astype(np.int32), cutoff)

    def absorb(self, other: "SampledFirings", cutoff: np.uint64) -> None:
        self._take(other.hashes, other.features, cutoff)

    def _take(self, hashes: np.ndarray, features: np.ndarray, cutoff: np.uint64) -> None:
        hashes, features = np.concatenate([self.hashes, hashes]), np.concatenate([self.features, features])
        kept = hashes <= cutoff
        self.hashes, self.features = hashes[kept], features[kept]

    def settle(self) -> None:
        order = np.lexsort((self.features, self.hashes))
        self.hashes, self.features = self.hashes[order], self.features[order]


def matches(mine: SampledFirings, theirs: SampledFirings, d_sae: int) -> list[tuple[list[int], list[float]]]:
    """For each of my d_sae features, the BEST of theirs by Jaccard of positions, with at least LEAST in
    common.
    """
    mine.settle()
    theirs.settle()
    places = np.unique(mine.hashes)
    first = np.searchsorted(theirs.hashes, places)
    widths = np.searchsorted(theirs.hashes, places, side="right") - first
    own = np.searchsorted(places, mine.hashes)
    enough = int(
        np.searchsorted((np.bincount(own, minlength=len(places)) * widths).cumsum(), PAIRS, side="right")
    )
    used = own < enough
    own, features = own[used], mine.features[used].astype(np.int64)
    others = theirs.features if enough == len(places) else theirs.features[theirs.hashes < places[enough]]
    repeats = widths[own]
    starts = repeats.cumsum() - repeats
    partner = theirs.features[np.repeat(first[own] - starts, repeats) + np.arange(repeats.sum())]
    pairs = (np.repeat(features, repeats) << 32) | partner
    pairs.sort()
    at = (
        np.flatnonzero(np.concatenate([[True], pairs[1:] != pairs[:-1]]))
        if len(pairs)
        else np.zeros(0, np.int64)
    )
    common = np.diff(np.concatenate([at, [len(pairs)]]))
    at, common = at[common >= LEAST], common[common >= LEAST]
    left, right = pairs[at] >> 32, pairs[at] & 0xFFFFFFFF
    n_left, n_right = np.bincount(features), np.bincount(others)
    jaccard = common / (n_left[left] + n_right[right] - common)
    order = np.lexsort((right, -jaccard, left))
    found: list[tuple[list[int], list[float]]] = [([], [])] * d_sae
    left, right, jaccard = left[order], right[order], np.round(jaccard[order], 4)
    met, begin = np.unique(left, return_index=True)
    for feature, start, end in zip(
        met.tolist(), begin.tolist(), [*begin[1:].tolist(), len(left)], strict=True
    ):
        chosen = slice(start, min(start + BEST, end))
        found[feature] = (right[chosen].tolist(), jaccard[chosen].tolist())
    return found
