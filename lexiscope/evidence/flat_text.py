"""Passages laid out flat, and firings on them: what name evidence is counted from."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lexiscope.sparse_code import SparseCode

NEAR = 32
"""`reads_near` looks this many tokens back."""
WORDS = 4
"""A Bloom filter of a set of tokens has WORDS × 64 bits: a token whose bit is not set is not in the set."""


def bloom_bits(tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The word [n] and the bit in it [n] that stand for each token in a Bloom filter."""
    hashed = (tokens.astype(np.uint32) * np.uint32(0x9E3779B1)) >> np.uint32(24)
    return (hashed >> np.uint32(6)).astype(np.int64), (hashed & np.uint32(63)).astype(np.uint64)


def mix(numbers: np.ndarray) -> np.ndarray:
    """[n] uint64, one to one (splitmix64): looks random, and is the same in every run."""
    with np.errstate(over="ignore"):
        mixed = numbers.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
        return mixed ^ (mixed >> np.uint64(31))


class FlatText:
    """Passages one after another, NEAR places apart, so that no window reaches into another passage.

    Arrays [n] are over the encoded positions, passage by passage; `tokens` [places] is the flat text itself,
    −1 in the gaps. A token of −1 inside a passage is unknown: nothing may fire on it.
    """

    def __init__(self, passages: Sequence[np.ndarray], *, first: int = 1, filters: bool = True) -> None:
        """passages: token ids of each. Positions from `first` on are encoded: 1 leaves out BOS.
        Without `filters` there is no `before`.
        """
        lengths = np.array([len(ids) for ids in passages], np.int64)
        starts = NEAR + np.concatenate([[0], (lengths + NEAR).cumsum()])
        self.tokens = np.full(starts[-1], -1, np.int32)
        for start, ids in zip(starts[:-1], passages, strict=True):
            self.tokens[start : start + len(ids)] = ids
        self.lengths = lengths
        """[passages]"""
        encoded = np.maximum(lengths - first, 0)
        self.row = np.repeat(np.arange(len(passages)), encoded)
        """index into `passages`"""
        self.position = first + np.arange(encoded.sum()) - np.repeat(encoded.cumsum() - encoded, encoded)
        """in the passage"""
        self.starts = starts[:-1]
        """[passages] place of each passage's first token"""
        self.place = self.starts[self.row] + self.position
        """index into `tokens`"""
        self.current, self.following = self.tokens[self.place], self.tokens[self.place + 1]
        """the token at the position, and the one after it (−1 after a passage's last)"""
        self.preceding = self.tokens[self.place - 1]
        """the token before it (−1 before a passage's first)"""
        self.before = self._before() if filters else np.zeros((0, WORDS), np.uint64)
        """[n, WORDS] Bloom filter of the NEAR tokens before"""

    def __len__(self) -> int:
        return len(self.place)

    def _before(self) -> np.ndarray:
        filters = np.zeros((len(self.tokens), WORDS), np.uint64)
        known = np.flatnonzero(self.tokens >= 0)
        word, bit = bloom_bits(self.tokens[known])
        filters[known, word] = np.uint64(1) << bit
        reach = 1
        while reach < NEAR:
            filters[reach:] |= filters[:-reach].copy()
            reach *= 2
        return filters[self.place - 1]


class FlatFirings(NamedTuple):
    """m firings (or near misses) of one dictionary on a `FlatText`."""

    feature: np.ndarray
    at: np.ndarray
    """index into the text's encoded positions"""
    value: np.ndarray

    def rows(self, chosen: np.ndarray) -> "FlatFirings":
        return FlatFirings(self.feature[chosen], self.at[chosen], self.value[chosen])


def flat_firings(codes: Sequence[SparseCode]) -> FlatFirings:
    """The firings of codes that together cover a text's encoded positions, in order. Padding (value 0) is
    left out.
    """
    features, places, values, done = [], [], [], 0
    for code in codes:
        value, width = code.values.cpu().numpy(), code.values.shape[1]
        at = np.repeat(np.arange(done, done + len(value)), width)
        feature, value = code.indices.cpu().numpy().reshape(-1), value.reshape(-1)
        done += len(code.values)
        if not value.all():
            fired = np.flatnonzero(value)
            feature, at, value = feature[fired], at[fired], value[fired]
        features.append(feature)
        places.append(at)
        values.append(value)
    return FlatFirings(np.concatenate(features), np.concatenate(places), np.concatenate(values))
