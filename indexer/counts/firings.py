"""The firings of one dictionary by passage and position, and the activations around any of its positions."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from indexer.counts.text_chunk import TextChunk
from lexiscope.evidence import FlatFirings
from lexiscope.records import CONTEXT_AFTER, CONTEXT_BEFORE
from lexiscope.sparse_code import SparseCode

TABLE = 1 << 20
MAX_FLOAT16 = np.float32(np.finfo(np.float16).max)


class TextFirings(NamedTuple):
    """m firings in a text, sorted by feature."""

    feature: np.ndarray
    passage: np.ndarray
    position: np.ndarray
    """in the passage, BOS at 0"""
    value: np.ndarray


def text_firings(code: SparseCode, passage: Tensor, position: Tensor) -> TextFirings:
    """The firings of a code of n positions, which stand at `position` [n] of `passage` [n]."""
    at, column = (code.values != 0).nonzero(as_tuple=True)
    parts = (code.indices[at, column], passage[at], position[at], code.values[at, column])
    unsorted = TextFirings(*(part.numpy() for part in parts))
    order = np.lexsort((unsorted.position, unsorted.passage, unsorted.feature))
    return TextFirings(*(part[order] for part in unsorted))


class ContextWindows(NamedTuple):
    """The activations of the same feature around m positions, in flat arrays."""

    starts: np.ndarray
    """[m + 1] where each context's entries begin"""
    positions: np.ndarray
    """in the passage"""
    values: np.ndarray
    """float16"""

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.starts)

    def take(self, rows: np.ndarray) -> "ContextWindows":
        lengths = self.lengths[rows]
        starts = np.concatenate([[0], lengths.cumsum()])
        entries = np.repeat(self.starts[:-1][rows] - starts[:-1], lengths) + np.arange(starts[-1])
        return ContextWindows(starts, self.positions[entries], self.values[entries])


class NearbyFirings:
    """Where else a feature fires in the passages of some positions. Only the firings of those features in
    those passages are sorted: positions are few, firings many.
    """

    def __init__(self, firings: FlatFirings, chunk: TextChunk, positions: Sequence[FlatFirings]) -> None:
        """`positions` are those that `windows` will be called for."""
        self.chunk = chunk
        self._shift = max(1, len(chunk.tokens).bit_length())
        if 4 * sum(len(part.feature) for part in positions) < len(firings.feature):
            wanted = np.zeros(TABLE, bool)
            for part in positions:
                wanted[self._cell(part)] = True
            firings = firings.rows(np.flatnonzero(wanted.take(self._cell(firings))))
        value = firings.value.clip(-MAX_FLOAT16, MAX_FLOAT16).astype(np.float16)
        packed = (self._key(firings.feature, chunk.place[firings.at]) << 16) | value.view(np.uint16)
        packed.sort()
        self._keys, self._values = packed >> 16, (packed & 0xFFFF).astype(np.uint16).view(np.float16)

    def _cell(self, part: FlatFirings) -> np.ndarray:
        """A cell of a table for each (feature, passage). Several pairs may share a cell: firings are then
        kept that no window needs.
        """
        return (part.feature * 0x9E3779B1 + self.chunk.row.take(part.at) * 0x85EBCA6B) >> 7 & (TABLE - 1)

    def _key(self, feature: np.ndarray, place: np.ndarray) -> np.ndarray:
        return (feature.astype(np.int64) << self._shift) | place

    def windows(self, positions: FlatFirings) -> ContextWindows:
        """Around each position (where the feature itself may be silent): its firings within the tokens
        of a context.
        """
        place = self.chunk.place[positions.at]
        low = np.searchsorted(self._keys, self._key(positions.feature, place - CONTEXT_BEFORE))
        last = np.minimum(place + CONTEXT_AFTER, len(self.chunk.tokens) - 1)
        high = np.searchsorted(self._keys, self._key(positions.feature, last), side="right")
        lengths = high - low
        starts = np.concatenate([[0], lengths.cumsum()])
        entries = np.arange(starts[-1]) - np.repeat(starts[:-1] - low, lengths)
        places = self._keys[entries] & ((1 << self._shift) - 1)
        offsets = places - np.repeat(self.chunk.starts[self.chunk.row[positions.at]], lengths)
        return ContextWindows(starts, offsets, self._values[entries])
