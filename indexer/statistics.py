"""Counts of one dictionary over a corpus: firings, moments, the log-binned histogram, and which token each feature fires on."""

from typing import NamedTuple

import numpy as np
import torch

from indexer.firings import Firings
from lexiscope.evidence import highest_lift

EDGES = np.round(10 ** np.linspace(-2, 3, 31), 6)
"""31 edges of 30 logarithmic bins; activations are in scaled units (mean-square norm d). Values outside go to the end bins."""


def position_edges(length: int) -> np.ndarray:
    """1, 2, 4, … up to the first edge past the last position of a passage of `length` tokens."""
    return 2 ** np.arange(max(1, int(np.ceil(np.log2(max(length, 2))))) + 1)


class Lift(NamedTuple):
    """The token each feature fires on with the most lift."""

    token: np.ndarray
    """[d_sae] −1 where the feature never fired"""
    hits: np.ndarray
    """[d_sae] firings on it"""


class Moments(NamedTuple):
    """Of the activation over firings; meaningless where `known` is false (below two firings, or no spread)."""

    std: np.ndarray
    skewness: np.ndarray
    kurtosis: np.ndarray
    known: np.ndarray


class Statistics:
    """Merge by addition (`max` by maximum)."""

    def __init__(self, d_sae: int, vocab_size: int, length: int = 256) -> None:
        self.d_sae, self.vocab = d_sae, vocab_size
        self.position_edges = position_edges(length)
        self.positions = np.zeros((d_sae, len(self.position_edges) - 1), np.int32)
        self.cubes = np.zeros(d_sae)
        self.fourths = np.zeros(d_sae)
        self.n_tokens = 0
        self.count = np.zeros(d_sae, np.int64)
        self.total = np.zeros(d_sae)
        self.squares = np.zeros(d_sae)
        self.max = np.zeros(d_sae, np.float32)
        self.histogram = np.zeros((d_sae, len(EDGES) - 1), np.int32)
        self._pairs: list[tuple[np.ndarray, np.ndarray]] = []
        self._held = 0

    def add(self, found: Firings, tokens: np.ndarray, n_tokens: int) -> None:
        """tokens [m] is the token each firing stands on; n_tokens counts the batch's positions, firing or not."""
        self.n_tokens += n_tokens
        value = found.value.astype(np.float64)
        self.count += np.bincount(found.feature, minlength=self.d_sae)
        self.total += np.bincount(found.feature, value, self.d_sae)
        self.squares += np.bincount(found.feature, value**2, self.d_sae)
        self.cubes += np.bincount(found.feature, value**3, self.d_sae)
        self.fourths += np.bincount(found.feature, value**4, self.d_sae)
        where = np.searchsorted(self.position_edges, found.position, side="right") - 1
        np.add.at(self.positions, (found.feature, where), 1)
        np.maximum.at(self.max, found.feature, found.value)
        bins = np.clip(np.searchsorted(EDGES, found.value, side="right") - 1, 0, len(EDGES) - 2)
        cells, times = np.unique(found.feature.astype(np.int64) * (len(EDGES) - 1) + bins, return_counts=True)
        self.histogram.reshape(-1)[cells] += times.astype(np.int32)
        self._pairs.append(np.unique(found.feature.astype(np.int64) * self.vocab + tokens, return_counts=True))
        self._held += len(self._pairs[-1][0])
        if self._held > 8_000_000:
            self._merge_pairs()

    def moments(self) -> Moments:
        n = np.maximum(self.count, 1)
        mean = self.total / n
        second, third, fourth = (power / n for power in (self.squares, self.cubes, self.fourths))
        variance = second - mean**2
        spread = (self.count > 1) & (variance > 1e-9 * second)
        std = np.sqrt(np.where(spread, variance, 1))
        skewness = (third - 3 * mean * second + 2 * mean**3) / std**3
        kurtosis = (fourth - 4 * mean * third + 6 * mean**2 * second - 3 * mean**4) / std**4 - 3
        return Moments(std, skewness, kurtosis, spread)

    def _merge_pairs(self) -> None:
        if not self._pairs:
            return
        keys, inverse = np.unique(np.concatenate([k for k, _ in self._pairs]), return_inverse=True)
        counts = np.bincount(inverse, np.concatenate([c for _, c in self._pairs])).astype(np.int64)
        if len(keys) > 4_000_000:  # lossy counting: what was met once so far is no feature's best token
            keys, counts = keys[counts > 1], counts[counts > 1]
        self._pairs, self._held = [(keys, counts)], len(keys)

    def lift(self, occurrences: np.ndarray) -> Lift:
        """The token of highest lift of each feature, as `lexiscope.evidence.highest_lift` defines it."""
        self._merge_pairs()
        keys, counts = self._pairs[0] if self._pairs else (np.zeros(0, np.int64), np.zeros(0, np.int64))
        feature, on = np.divmod(keys, self.vocab)
        arrays = (feature, on, counts, self.count, np.asarray(occurrences))
        found = highest_lift(*(torch.from_numpy(array) for array in arrays))
        return Lift(found.tokens.numpy(), found.hits.numpy())
