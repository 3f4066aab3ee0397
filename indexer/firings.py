"""The firings of one dictionary in one batch, in arrays sorted by feature, passage and position."""

from typing import NamedTuple

import numpy as np
from torch import Tensor

from lexiscope.dictionary import SparseCode

BEFORE, AFTER = 32, 16
"""Tokens of context kept on either side of a position."""


class Firings(NamedTuple):
    """m firings, sorted by (feature, passage, position)."""

    feature: np.ndarray
    passage: np.ndarray
    position: np.ndarray
    """in the passage, BOS at 0"""
    value: np.ndarray


class Windows(NamedTuple):
    """The activations of the same feature around m positions, in flat arrays."""

    starts: np.ndarray
    """[m + 1] where each context's entries begin"""
    positions: np.ndarray
    values: np.ndarray


def firings(code: SparseCode, passage: Tensor, position: Tensor) -> Firings:
    """code of n positions, which stand at `position` [n] of `passage` [n]."""
    at, column = (code.values > 0).nonzero(as_tuple=True)
    feature = code.indices[at, column].numpy()
    where = (passage[at].numpy(), position[at].numpy())
    order = np.lexsort((where[1], where[0], feature))
    return Firings(feature[order], where[0][order], where[1][order], code.values[at, column].numpy()[order])


def windows(found: Firings, feature: np.ndarray, passage: np.ndarray, position: np.ndarray) -> Windows:
    """Around each given place (where the feature may be silent itself): its firings within BEFORE and AFTER tokens."""
    base = _key(feature, passage)
    key = _key(found.feature, found.passage) + found.position
    low = np.searchsorted(key, base + np.maximum(position - BEFORE, 0))
    high = np.searchsorted(key, base + np.minimum(position + AFTER, 0xFFFF), side="right")
    lengths = high - low
    starts = np.concatenate([[0], lengths.cumsum()])
    entries = np.arange(starts[-1]) - np.repeat(starts[:-1] - low, lengths)
    return Windows(starts, found.position[entries], found.value[entries])


def _key(feature: np.ndarray, passage: np.ndarray) -> np.ndarray:
    return (feature.astype(np.int64) << 40) | ((passage.astype(np.int64) & 0xFFFFFF) << 16)
