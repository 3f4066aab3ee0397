"""Which tokens each feature fires on, and how often: exact where they are few, else from a sample, in bounded
memory.

A feature keeps at most MOST counts. When it would keep more, it goes on with half of the text's positions,
then a quarter, …: those whose hash ends in one, two, … zero bits. A part of a text never needs a higher level
than the whole, so any split ends at the same level with the same counts. A feature that has fired on few
tokens is counted exactly; a share taken from a sample rests on about MOST / 2 firings and more, so its
standard error is at most about 1 / √(2 MOST), 0.03.
"""

from typing import NamedTuple

import numpy as np
import torch

from indexer.counts.firings import Fired
from indexer.counts.positions import Stretch
from lexiscope.evidence import highest_lift

MOST = 512
LEVELS = 32
PENDING = 2_000_000


class Lift(NamedTuple):
    """The token each feature fires on with the most lift."""

    token: np.ndarray
    """[d_sae] −1 where the feature never fired"""
    hits: np.ndarray
    """[d_sae] counted firings on it"""
    name_hits: np.ndarray
    """[d_sae] counted firings on the feature's name"""
    counted: np.ndarray
    """[d_sae] firings counted: all, or those of the sample"""


class TokenCounts:
    PARTS = ("level", "keys", "counts")

    def __init__(self, d_sae: int, vocab: int) -> None:
        self.d_sae, self.vocab = d_sae, vocab
        self.level = np.zeros(d_sae, np.int8)
        self.keys = np.zeros(0, np.int64)
        """sorted (feature, token, level of the position)"""
        self.counts = np.zeros(0, np.int32)
        self._pending: list[np.ndarray] = []

    def add(self, found: Fired, stretch: Stretch) -> None:
        feature, at = found.feature, found.at
        level = stretch.level.take(at)
        if self.level.any():
            kept = np.flatnonzero(level >= self.level.take(feature))
            feature, at, level = feature[kept], at[kept], level[kept]
        self._pending.append(
            (feature * self.vocab + stretch.current.take(at)) * LEVELS + np.minimum(level, LEVELS - 1)
        )
        if sum(map(len, self._pending)) > PENDING:
            self.settle()

    def absorb(self, other: "TokenCounts") -> None:
        self.settle()
        other.settle()
        self.level = np.maximum(self.level, other.level)
        self._take(other.keys, other.counts)

    def settle(self) -> None:
        if self._pending:
            keys = np.concatenate(self._pending)
            self._pending = []
            keys.sort()
            first = (
                np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
                if len(keys)
                else np.zeros(0, np.int64)
            )
            self._take(keys[first], np.diff(np.concatenate([first, [len(keys)]])).astype(np.int32))

    def _take(self, keys: np.ndarray, counts: np.ndarray) -> None:
        both, times = np.concatenate([self.keys, keys]), np.concatenate([self.counts, counts])
        order = both.argsort(kind="stable")
        both, times = both[order], times[order]
        first = (
            np.flatnonzero(np.concatenate([[True], both[1:] != both[:-1]]))
            if len(both)
            else np.zeros(0, np.int64)
        )
        self.keys, self.counts = both[first], np.add.reduceat(times, first) if len(first) else times
        while True:
            feature = self.keys // (self.vocab * LEVELS)
            kept = self.keys % LEVELS >= self.level[feature]
            self.keys, self.counts, feature = self.keys[kept], self.counts[kept], feature[kept]
            over = (np.bincount(feature, minlength=self.d_sae) > MOST) & (self.level < LEVELS - 1)
            if not over.any():
                return
            self.level[over] += 1

    def lift(self, names: np.ndarray, occurrences: np.ndarray) -> Lift:
        """The token of highest lift of each feature, as `lexiscope.evidence.highest_lift` defines it."""
        self.settle()
        pairs = self.keys // LEVELS
        first = (
            np.flatnonzero(np.concatenate([[True], pairs[1:] != pairs[:-1]]))
            if len(pairs)
            else np.zeros(0, np.int64)
        )
        counts = np.add.reduceat(self.counts, first).astype(np.int64) if len(first) else np.zeros(0, np.int64)
        feature, token = np.divmod(pairs[first], self.vocab)
        counted = np.bincount(feature, counts, self.d_sae).astype(np.int64)
        arrays = (feature, token, counts, counted, np.asarray(occurrences))
        best = highest_lift(*(torch.from_numpy(array) for array in arrays))
        named = np.zeros(self.d_sae, np.int64)
        on_name = token == names[feature]
        named[feature[on_name]] = counts[on_name]
        return Lift(best.tokens.numpy(), best.hits.numpy(), named, counted)
