"""Which features of two layers fire at the same positions, from a bounded sample of the text's positions.

The sample is the encoded positions of lowest hash. The lowest of a whole text are among the lowest of its
parts, so any split of a text ends with the same sample.
"""

import numpy as np

from indexer.counts.text_chunk import TextChunk
from lexiscope.evidence import FlatFirings
from lexiscope.runs import run_lengths, run_starts

SAMPLE = 16_384
"""Positions in the sample."""
MIN_COMMON = 3
"""Common positions that two features need to be called a match."""
BEST = 3
"""Matches kept of each feature."""
MAX_PAIRS = 40_000_000
"""Pairs of firings counted for two dictionaries; where codes are dense, fewer positions are used."""


class SampledPositions:
    """The hashes of the positions sampled so far; shared by all dictionaries of a model."""

    def __init__(self, limit: int = SAMPLE) -> None:
        self.limit = limit
        self.hashes = np.zeros(0, np.uint64)

    @property
    def cutoff(self) -> np.uint64:
        """The highest hash in the sample."""
        return self.hashes[-1] if len(self.hashes) == self.limit else np.uint64(2**64 - 1)

    def add(self, hashes: np.ndarray) -> None:
        self.hashes = np.sort(np.concatenate([self.hashes, hashes[hashes <= self.cutoff]]))[: self.limit]


class SampledFirings:
    """The firings of one dictionary at the sampled positions."""

    PARTS = ("hashes", "features")

    def __init__(self) -> None:
        self.hashes = np.zeros(0, np.uint64)
        self.features = np.zeros(0, np.int32)

    def add(self, firings: FlatFirings, chunk: TextChunk, cutoff: np.uint64) -> None:
        """`cutoff` is the sample's after the chunk's own positions were added to it."""
        rows = np.flatnonzero((chunk.hash <= cutoff).take(firings.at))
        self._take(chunk.hash[firings.at[rows]], firings.feature[rows].astype(np.int32), cutoff)

    def absorb(self, other: "SampledFirings", cutoff: np.uint64) -> None:
        self._take(other.hashes, other.features, cutoff)

    def _take(self, hashes: np.ndarray, features: np.ndarray, cutoff: np.uint64) -> None:
        hashes, features = np.concatenate([self.hashes, hashes]), np.concatenate([self.features, features])
        kept = hashes <= cutoff
        self.hashes, self.features = hashes[kept], features[kept]

    def settle(self) -> None:
        """Sort by hash, then feature."""
        order = np.lexsort((self.features, self.hashes))
        self.hashes, self.features = self.hashes[order], self.features[order]


def matches(own: SampledFirings, other: SampledFirings, d_sae: int) -> list[tuple[list[int], list[float]]]:
    """For each of the d_sae features of the first dictionary: the BEST features of the second by Jaccard
    index of positions, with at least MIN_COMMON positions in common, and their indices.
    """
    own.settle()
    other.settle()
    places = np.unique(own.hashes)
    first = np.searchsorted(other.hashes, places)
    widths = np.searchsorted(other.hashes, places, side="right") - first
    at = np.searchsorted(places, own.hashes)
    n_pairs = (np.bincount(at, minlength=len(places)) * widths).cumsum()
    n_places = int(np.searchsorted(n_pairs, MAX_PAIRS, side="right"))
    used = at < n_places
    at, features = at[used], own.features[used].astype(np.int64)
    others = other.features if n_places == len(places) else other.features[other.hashes < places[n_places]]
    repeats = widths[at]
    offsets = repeats.cumsum() - repeats
    partner = other.features[np.repeat(first[at] - offsets, repeats) + np.arange(repeats.sum())]
    pairs = (np.repeat(features, repeats) << 32) | partner
    pairs.sort()
    starts = run_starts(pairs)
    common = run_lengths(starts, len(pairs))
    starts, common = starts[common >= MIN_COMMON], common[common >= MIN_COMMON]
    left, right = pairs[starts] >> 32, pairs[starts] & 0xFFFFFFFF
    n_left, n_right = np.bincount(features), np.bincount(others)
    jaccard = common / (n_left[left] + n_right[right] - common)
    order = np.lexsort((right, -jaccard, left))
    left, right, jaccard = left[order], right[order], np.round(jaccard[order], 4)
    matched: list[tuple[list[int], list[float]]] = [([], [])] * d_sae
    begins = run_starts(left)
    for begin, n in zip(begins.tolist(), run_lengths(begins, len(left)).tolist(), strict=True):
        best = slice(begin, begin + min(BEST, n))
        matched[int(left[begin])] = (right[best].tolist(), jaccard[best].tolist())
    return matched
