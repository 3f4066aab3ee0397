"""Some passages laid out flat: where each encoded position stands, what is around it, and what chance draws
for it.

All dictionaries of a model share one stretch. Passages are GAP apart, so that a window never reaches into
another one.
"""

from collections.abc import Sequence

import numpy as np

from lexiscope.evidence import NEAR
from lexiscope.text import Batch

GAP = NEAR
WORDS = 4
"""A set of tokens is summarised in WORDS × 64 bits: a token whose bit is not set is not in it (a Bloom
filter).
"""


def mix(numbers: np.ndarray) -> np.ndarray:
    """[n] uint64, one to one (splitmix64): what looks random, and is the same in every run."""
    with np.errstate(over="ignore"):
        mixed = numbers.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
        return mixed ^ (mixed >> np.uint64(31))


def bits(tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The word [n] and the bit in it [n] that stand for each token."""
    hashed = (tokens.astype(np.uint32) * np.uint32(0x9E3779B1)) >> np.uint32(24)
    return (hashed >> np.uint32(6)).astype(np.int64), (hashed & np.uint32(63)).astype(np.uint64)


class Stretch:
    """Arrays [n] over encoded positions, in the order of the batches' masks; `tokens` [spots] is the flat
    text, −1 in the gaps.
    """

    def __init__(self, batches: Sequence[Batch], first: int, edges: np.ndarray) -> None:
        """`first` is the number of the block's first passage; `edges` those of the position histogram."""
        rows = [
            ids[:length]
            for batch in batches
            for ids, length in zip(batch.tokens.numpy(), batch.lengths.tolist(), strict=True)
        ]
        lengths = np.array([len(ids) for ids in rows])
        starts = GAP + np.concatenate([[0], (lengths + GAP).cumsum()])
        self.tokens = np.full(starts[-1], -1, np.int32)
        for start, ids in zip(starts[:-1], rows, strict=True):
            self.tokens[start : start + len(ids)] = ids
        encoded = lengths - 1
        self.row = np.repeat(np.arange(len(rows)), encoded)
        self.position = np.arange(1, encoded.sum() + 1) - np.repeat(encoded.cumsum() - encoded, encoded)
        self.passage = first + np.concatenate([batch.passages for batch in batches])[self.row]
        self.starts = starts[:-1]
        self.spot = self.starts[self.row] + self.position
        self.current, self.following = self.tokens[self.spot], self.tokens[self.spot + 1]
        self.chance = mix((self.passage.astype(np.uint64) << np.uint64(16)) | self.position.astype(np.uint64))
        lowest = self.chance & (~self.chance + np.uint64(1))
        self.level = np.log2(np.maximum(lowest, np.uint64(1)).astype(np.float64)).astype(np.int64)
        self.bin = np.searchsorted(edges, self.position, side="right") - 1
        self.before = self._before()

    def __len__(self) -> int:
        return len(self.spot)

    def _before(self) -> np.ndarray:
        """[n, WORDS] the NEAR tokens before each position, summarised."""
        near = np.zeros((len(self.tokens), WORDS), np.uint64)
        there = np.flatnonzero(self.tokens >= 0)
        word, bit = bits(self.tokens[there])
        near[there, word] = np.uint64(1) << bit
        reach = 1
        while reach < NEAR:
            near[reach:] |= near[:-reach].copy()
            reach *= 2
        return near[self.spot - 1]
