"""A chunk of the text: some passages of one block laid out flat, with what every count needs of each
position.

All dictionaries of a model share one chunk.
"""

from collections.abc import Sequence

import numpy as np

from lexiscope.evidence import FlatText
from lexiscope.text import Batch


def mix(numbers: np.ndarray) -> np.ndarray:
    """[n] uint64, one to one (splitmix64): looks random, and is the same in every run."""
    with np.errstate(over="ignore"):
        mixed = numbers.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
        return mixed ^ (mixed >> np.uint64(31))


class TextChunk(FlatText):
    """Arrays [n] over encoded positions, in the order of the batches' masks."""

    def __init__(self, batches: Sequence[Batch], first_passage: int, position_edges: np.ndarray) -> None:
        """`first_passage` is the number of the block's first passage in the text; `position_edges` are the
        edges of the histogram of positions.
        """
        super().__init__([ids for batch in batches for ids in batch.rows])
        numbers = np.concatenate([batch.passages for batch in batches])
        self.passage = first_passage + numbers[self.row]
        """number in the text"""
        self.hash = mix((self.passage.astype(np.uint64) << np.uint64(16)) | self.position.astype(np.uint64))
        """of (passage, position): what samples are drawn by"""
        lowest_bit = self.hash & (~self.hash + np.uint64(1))
        self.level = np.log2(np.maximum(lowest_bit, np.uint64(1)).astype(np.float64)).astype(np.int64)
        """zero bits that the hash ends in: half of the positions have level 1 or more, a quarter 2 or more, …
        """
        self.position_bin = np.searchsorted(position_edges, self.position, side="right") - 1
