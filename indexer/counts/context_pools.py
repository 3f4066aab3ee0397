"""The best contexts of every feature so far, in memory bounded by features × limit, whatever the corpus.

A pool keeps, for each feature, the `limit` entries of highest `key`: the activation for top contexts, a
random draw for the sample, the pre-activation for near misses. Any split of a corpus, in any order, leaves
the same entries: equal keys are ordered by passage and position.
"""

import numpy as np

from indexer.counts.firings import ContextWindows, NearbyFirings, TextFirings
from indexer.counts.text_chunk import TextChunk
from lexiscope.evidence import FlatFirings, mix
from lexiscope.runs import rank_in_run, run_lengths, run_starts

COLUMNS = {
    "feature": np.int32,
    "passage": np.int64,
    "position": np.int32,
    "key": np.float32,
    "value": np.float32,
}
SLACK = 100_000
"""Entries added before the pool is sorted and cut again."""


class ContextPool:
    PARTS = (*COLUMNS, "lengths", "positions", "values")

    def __init__(self, d_sae: int, limit: int, *, one_a_passage: bool) -> None:
        self.limit, self.one_a_passage = limit, one_a_passage
        self.threshold = np.full(d_sae, -np.inf, np.float32)
        """[d_sae] the lowest key of a full feature; −∞ where there is room"""
        self.feature, self.passage, self.position, self.key, self.value = (
            np.zeros(0, kind) for kind in COLUMNS.values()
        )
        self.lengths = np.zeros(0, np.uint8)
        """entries of each context's window, in `positions` and `values`"""
        self.positions = np.zeros(0, np.uint16)
        self.values = np.zeros(0, np.float16)
        self._added: list[tuple[np.ndarray, ...]] = []
        self._n_added = 0

    def candidates(self, firings: FlatFirings, key: np.ndarray, chunk: TextChunk) -> np.ndarray:
        """Indices of the firings that may enter, in the order of feature and place: at or above the feature's
        threshold and, with `one_a_passage`, the best of their passage, the earliest of equals. A passage lies
        in one chunk, so its best there is its best.
        """
        rows = np.flatnonzero(key >= self.threshold.take(firings.feature))
        if not len(rows):
            return rows
        bits, passages = len(firings.feature).bit_length(), len(chunk.lengths).bit_length()
        group = firings.feature.take(rows).astype(np.int64)
        if self.one_a_passage:
            group = (group << passages) | chunk.row.take(firings.at.take(rows))
        packed = (group << bits) | rows  # a sort of numbers is ten times as fast as one of several keys
        packed.sort()
        rows = packed & ((1 << bits) - 1)
        if not self.one_a_passage:
            return rows
        starts, own = run_starts(packed >> bits), key.take(rows)
        lengths = run_lengths(starts, len(rows))
        best = np.flatnonzero(own == np.repeat(np.maximum.reduceat(own, starts), lengths))
        return rows.take(best[run_starts(packed.take(best) >> bits)])

    def add(self, firings: FlatFirings, key: np.ndarray, chunk: TextChunk, nearby: NearbyFirings) -> None:
        """Add candidates, each with the activations around it."""
        around = nearby.windows(firings)
        own = (firings.feature, chunk.passage[firings.at], chunk.position[firings.at], key, firings.value)
        kinds = (*COLUMNS.values(), np.uint8, np.uint16, np.float16)
        columns = (*own, around.lengths, around.positions, around.values)
        self._added.append(tuple(column.astype(kind) for column, kind in zip(columns, kinds, strict=True)))
        self._n_added += len(firings.feature)
        if self._n_added > SLACK + len(self.feature) // 2:
            self.settle()

    def absorb(self, other: "ContextPool") -> None:
        other.settle()
        self._added.append(tuple(getattr(other, name) for name in self.PARTS))
        self.settle()

    def settle(self) -> None:
        """Drop what is beyond the limit; the entries are then sorted by feature, and from best to worst."""
        parts = [tuple(getattr(self, name) for name in self.PARTS), *self._added]
        self._added, self._n_added = [], 0
        feature, passage, position, key, value, lengths, positions, values = (
            np.concatenate(part) for part in zip(*parts, strict=True)
        )
        order = _best_first(feature, key, passage, position)
        order = order[rank_in_run(feature.take(order)) < self.limit]
        self.feature, self.passage, self.position = feature[order], passage[order], position[order]
        self.key, self.value, self.lengths = key[order], value[order], lengths[order]
        starts = np.concatenate([[0], lengths.cumsum(dtype=np.int64)])
        around = ContextWindows(starts, positions, values).take(order)
        self.positions, self.values = around.positions, around.values
        self._set_thresholds()

    def _set_thresholds(self) -> None:
        counts = np.bincount(self.feature, minlength=len(self.threshold))
        full = np.flatnonzero(counts >= self.limit)
        self.threshold.fill(-np.inf)
        self.threshold[full] = self.key[counts.cumsum()[full] - 1]

    def passages(self) -> np.ndarray:
        """The passages of its entries, those added since the last `settle` included."""
        return np.unique(np.concatenate([self.passage, *(columns[1] for columns in self._added)]))

    @property
    def firings(self) -> TextFirings:
        return TextFirings(self.feature, self.passage, self.position, self.value)

    @property
    def windows(self) -> ContextWindows:
        starts = np.concatenate([[0], self.lengths.cumsum(dtype=np.int64)])
        return ContextWindows(starts, self.positions, self.values)


def _best_first(
    feature: np.ndarray, key: np.ndarray, passage: np.ndarray, position: np.ndarray
) -> np.ndarray:
    """The order by feature, then from the highest key (none is negative) to the lowest, then by passage and
    position: one sort of numbers, and a second of the few that are equal in it.
    """
    bits = key.view(np.uint32).astype(np.int64)  # as long as none is negative, in the order of the floats
    packed = (feature.astype(np.int64) << 32) | (0xFFFFFFFF - bits)
    order = np.argsort(packed)
    packed = packed.take(order)
    equal = np.zeros(len(order) + 1, bool)
    equal[1:-1] = packed[1:] == packed[:-1]
    tied = np.flatnonzero(equal[1:] | equal[:-1])
    among = order[tied]
    order[tied] = among[np.lexsort((position[among], passage[among], packed[tied]))]
    return order


def draws(firings: FlatFirings, chunk: TextChunk) -> np.ndarray:
    """[m] float32 in [0, 1), a hash of feature and position: the highest draws are a uniform sample that does
    not depend on split or order of the corpus.
    """
    mixed = (chunk.hash >> np.uint64(32)).astype(np.uint32).take(firings.at)
    with np.errstate(over="ignore"):
        mixed ^= _feature_hashes(int(firings.feature.max(initial=0)) + 1).take(firings.feature)
        for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):  # the last steps of murmur3
            mixed ^= mixed >> np.uint32(shift)
            mixed *= np.uint32(factor)
    return (mixed >> np.uint32(8)).astype(np.float32) / np.float32(1 << 24)


def _feature_hashes(n: int) -> np.ndarray:
    return (mix(np.arange(n)) >> np.uint64(32)).astype(np.uint32)
