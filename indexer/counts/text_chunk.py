"""A chunk of the text: some passages of one block laid out flat, with what every count needs of each
position.

All dictionaries of a model share one chunk.
"""

from collections.abc import Sequence

import numpy as np

from lexiscope.evidence import FlatText, halves_of, mix, place_codes
from lexiscope.text import Batch


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
        self.halves = halves_of(self)
        """[passages] 0 or 1: names are chosen on one half of the passages and judged on the other"""
        self.code = place_codes(self.passage, self.position)
        """of (passage, position), in random order: what samples of a feature's firings are drawn by"""
        self.level = np.log2(np.maximum(lowest_bit, np.uint64(1)).astype(np.float64)).astype(np.int64)
        """zero bits that the hash ends in: half of the positions have level 1 or more, a quarter 2 or more, …
        """
        self.position_bin = np.searchsorted(position_edges, self.position, side="right") - 1
