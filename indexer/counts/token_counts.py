"""Which tokens each feature fires on, and how often: exact where they are few, else from a sample, in bounded
memory.

A feature keeps at most `max_counts` counts. When it would keep more, it goes on with half of the text's
positions, then a quarter, and so on: those whose hash ends in one, two, … zero bits. A part of a text never
needs a higher level than the whole, so any split ends at the same level with the same counts. A share taken
from a sample rests on about max_counts / 2 firings or more, so its standard error is at most about 1 / √(2
max_counts), which is 0.03.
"""

from typing import NamedTuple

import numpy as np
import torch

from indexer.counts.text_chunk import TextChunk
from lexiscope.evidence import FlatFirings, highest_lift
from lexiscope.runs import run_lengths, run_starts

MAX_COUNTS = 512
LEVELS = 32
MAX_PENDING = 2_000_000
"""Firings held before they are counted."""


class LiftCounts(NamedTuple):
    """The token of highest lift of each feature, with counts [d_sae]."""

    token: np.ndarray
    """−1 where the feature never fired"""
    hits: np.ndarray
    """counted firings on it"""
    name_hits: np.ndarray
    """counted firings on the feature's name"""
    counted: np.ndarray
    """firings counted: all, or those of the sample"""


class TokenCounts:
    PARTS = ("level", "keys", "counts")

    def __init__(self, d_sae: int, vocab: int, max_counts: int = MAX_COUNTS) -> None:
        self.d_sae, self.vocab, self.max_counts = d_sae, vocab, max_counts
        self.level = np.zeros(d_sae, np.int8)
        """[d_sae] positions of this level or a higher one are counted"""
        self.keys = np.zeros(0, np.int64)
        """sorted (feature, token, level of the position)"""
        self.counts = np.zeros(0, np.int32)
        self._pending: list[np.ndarray] = []

    def add(self, firings: FlatFirings, chunk: TextChunk) -> None:
        feature, at = firings.feature, firings.at
        level = chunk.level.take(at)
        if self.level.any():
            kept = np.flatnonzero(level >= self.level.take(feature))
            feature, at, level = feature[kept], at[kept], level[kept]
        pairs = feature * self.vocab + chunk.current.take(at)
        self._pending.append(pairs * LEVELS + np.minimum(level, LEVELS - 1))
        if sum(map(len, self._pending)) > MAX_PENDING:
            self.settle()

    def absorb(self, other: "TokenCounts") -> None:
        self.settle()
        other.settle()
        self.level = np.maximum(self.level, other.level)
        self._add_counts(other.keys, other.counts)

    def settle(self) -> None:
        """Count what is pending."""
        if self._pending:
            keys = np.concatenate(self._pending)
            self._pending = []
            keys.sort()
            starts = run_starts(keys)
            self._add_counts(keys[starts], run_lengths(starts, len(keys)).astype(np.int32))

    def _add_counts(self, keys: np.ndarray, counts: np.ndarray) -> None:
        keys, counts = np.concatenate([self.keys, keys]), np.concatenate([self.counts, counts])
        order = keys.argsort(kind="stable")
        keys, counts = keys[order], counts[order]
        starts = run_starts(keys)
        self.keys, self.counts = keys[starts], _summed(counts, starts)
        while True:
            feature = self.keys // (self.vocab * LEVELS)
            kept = self.keys % LEVELS >= self.level[feature]
            self.keys, self.counts, feature = self.keys[kept], self.counts[kept], feature[kept]
            n_counts = np.bincount(feature, minlength=self.d_sae)
            over = (n_counts > self.max_counts) & (self.level < LEVELS - 1)
            if not over.any():
                return
            self.level[over] += 1

    def lift(self, names: np.ndarray, occurrences: np.ndarray) -> LiftCounts:
        """The token of highest lift of each feature, as `lexiscope.evidence.highest_lift` defines it; names
        [d_sae], occurrences [vocab] of the text.
        """
        self.settle()
        pairs = self.keys // LEVELS
        starts = run_starts(pairs)
        counts = _summed(self.counts, starts).astype(np.int64)
        feature, token = np.divmod(pairs[starts], self.vocab)
        counted = np.bincount(feature, counts, self.d_sae).astype(np.int64)
        arrays = (feature, token, counts, counted, np.asarray(occurrences))
        best = highest_lift(*(torch.from_numpy(array) for array in arrays))
        name_hits = np.zeros(self.d_sae, np.int64)
        on_name = token == names[feature]
        name_hits[feature[on_name]] = counts[on_name]
        return LiftCounts(best.tokens.numpy(), best.hits.numpy(), name_hits, counted)


def _summed(counts: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """The sum of each run of counts."""
    return np.add.reduceat(counts, starts) if len(starts) else counts[:0]
