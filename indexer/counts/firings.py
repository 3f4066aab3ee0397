"""The firings of one dictionary on a stretch of text, flat, and the activations around any of its positions."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from indexer.counts.positions import Stretch
from lexiscope.sparse_code import SparseCode

BEFORE, AFTER = 32, 16
"""Tokens of context kept on either side of a position; BEFORE is no more than the gap between passages."""
TABLE = 1 << 20


class Firings(NamedTuple):
    """m firings in a text, sorted by feature."""

    feature: np.ndarray
    passage: np.ndarray
    position: np.ndarray
    """in the passage, BOS at 0"""
    value: np.ndarray


def firings(code: SparseCode, passage: Tensor, position: Tensor) -> Firings:
    """code of n positions, which stand at `position` [n] of `passage` [n]."""
    at, column = (code.values > 0).nonzero(as_tuple=True)
    found = Firings(
        *(
            part.numpy()
            for part in (code.indices[at, column], passage[at], position[at], code.values[at, column])
        )
    )
    order = np.lexsort((found.position, found.passage, found.feature))
    return Firings(*(part[order] for part in found))


class Fired(NamedTuple):
    """m firings (or near misses) on a stretch."""

    feature: np.ndarray
    at: np.ndarray
    """index into the stretch's encoded positions, ascending"""
    value: np.ndarray

    def rows(self, chosen: np.ndarray) -> "Fired":
        return Fired(self.feature[chosen], self.at[chosen], self.value[chosen])


class Windows(NamedTuple):
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

    def take(self, rows: np.ndarray) -> "Windows":
        lengths = self.lengths[rows]
        starts = np.concatenate([[0], lengths.cumsum()])
        entries = np.repeat(self.starts[:-1][rows] - starts[:-1], lengths) + np.arange(starts[-1])
        return Windows(starts, self.positions[entries], self.values[entries])


def flat(codes: Sequence[SparseCode]) -> Fired:
    """The firings of codes that follow each other on a stretch; padding (value 0) is left out."""
    features, places, values, done = [], [], [], 0
    for code in codes:
        value, width = code.values.cpu().numpy(), code.values.shape[1]
        at = np.repeat(np.arange(done, done + len(value)), width)
        feature, value = code.indices.cpu().numpy().reshape(-1), value.reshape(-1)
        done += len(code.values)
        if not (value > 0).all():
            fired = np.flatnonzero(value > 0)
            feature, at, value = feature[fired], at[fired], value[fired]
        features.append(feature)
        places.append(at)
        values.append(value)
    return Fired(np.concatenate(features), np.concatenate(places), np.concatenate(values))


class Nearby:
    """Where else features fire, in the passages of some places: asked for few of many firings, so that few
    are sorted.
    """

    def __init__(self, found: Fired, stretch: Stretch, places: Sequence[Fired]) -> None:
        self.stretch = stretch
        self._shift = max(1, len(stretch.tokens).bit_length())
        asked = sum(len(place.feature) for place in places)
        if asked * 4 < len(found.feature):
            wanted = np.zeros(TABLE, bool)
            for place in places:
                wanted[self._cell(place)] = True
            found = found.rows(np.flatnonzero(wanted.take(self._cell(found))))
        value = np.minimum(found.value, np.float32(np.finfo(np.float16).max)).astype(np.float16)
        packed = (self._key(found.feature, stretch.spot[found.at]) << 16) | value.view(np.uint16)
        packed.sort()
        self._keys, self._values = packed >> 16, (packed & 0xFFFF).astype(np.uint16).view(np.float16)

    def _cell(self, place: Fired) -> np.ndarray:
        """A cell of a table for each (feature, passage); two may share one, which costs time and no truth."""
        return (place.feature * 0x9E3779B1 + self.stretch.row.take(place.at) * 0x85EBCA6B) >> 7 & (TABLE - 1)

    def _key(self, feature: np.ndarray, spot: np.ndarray) -> np.ndarray:
        return (feature.astype(np.int64) << self._shift) | spot

    def windows(self, place: Fired) -> Windows:
        """Around each given place (where the feature may be silent itself): its firings within BEFORE and
        AFTER tokens.
        """
        spot = self.stretch.spot[place.at]
        low = np.searchsorted(self._keys, self._key(place.feature, spot - BEFORE))
        high = np.searchsorted(
            self._keys,
            self._key(place.feature, np.minimum(spot + AFTER, len(self.stretch.tokens) - 1)),
            side="right",
        )
        lengths = high - low
        starts = np.concatenate([[0], lengths.cumsum()])
        entries = np.arange(starts[-1]) - np.repeat(starts[:-1] - low, lengths)
        spots = self._keys[entries] & ((1 << self._shift) - 1)
        positions = spots - np.repeat(self.stretch.starts[self.stretch.row[place.at]], lengths)
        return Windows(starts, positions, self._values[entries])
