"""The best contexts of every feature so far, in memory bounded by features × limit, whatever the corpus.

A pool keeps, for each feature, the `limit` entries of highest `key`: the activation for top contexts, a draw
for the sample, the pre-activation for near misses. Any split of a corpus, in any order, leaves the same
entries (ties are settled by passage and position).
"""

import numpy as np

from indexer.counts.firings import Fired, Firings, Nearby, Windows
from indexer.counts.positions import Stretch, mix

COLUMNS = {
    "feature": np.int32,
    "passage": np.int64,
    "position": np.int32,
    "key": np.float32,
    "value": np.float32,
}
SLACK = 100_000
"""Entries held beyond those that will stay."""


class Pool:
    PARTS = (*COLUMNS, "lengths", "positions", "values")

    def __init__(self, d_sae: int, limit: int, *, one_a_passage: bool) -> None:
        self.limit, self.one_a_passage = limit, one_a_passage
        self.threshold = np.full(d_sae, -np.inf, np.float32)
        self.feature, self.passage, self.position, self.key, self.value = (
            np.zeros(0, kind) for kind in COLUMNS.values()
        )
        self.lengths = np.zeros(0, np.uint8)
        """entries of each context's window, in `positions` and `values`"""
        self.positions = np.zeros(0, np.uint16)
        self.values = np.zeros(0, np.float16)
        self._added: list[tuple[np.ndarray, ...]] = []
        self._held = 0

    def candidates(self, found: Fired, key: np.ndarray, stretch: Stretch) -> np.ndarray:
        """Indices of the firings that could enter: not below the feature's threshold and, if asked, the best
        of their passage.

        A passage lies in one stretch, so its best there is its best.
        """
        rows = np.flatnonzero(key >= self.threshold.take(found.feature))
        if not self.one_a_passage or not len(rows):
            return rows
        group = (found.feature[rows].astype(np.int64) << 32) | stretch.row[found.at[rows]]
        order = np.lexsort((-key[rows], group))  # stable: of equal keys the earliest position comes first
        return rows[order[_first_of_each(group[order], 1)]]

    def add(self, place: Fired, key: np.ndarray, stretch: Stretch, nearby: Nearby) -> None:
        """Add entries (already through `candidates`), each with its window."""
        around = nearby.windows(place)
        own = (place.feature, stretch.passage[place.at], stretch.position[place.at], key, place.value)
        kinds = (*COLUMNS.values(), np.uint8, np.uint16, np.float16)
        columns = (*own, around.lengths, around.positions, around.values)
        self._added.append(tuple(column.astype(kind) for column, kind in zip(columns, kinds, strict=True)))
        self._held += len(place.feature)
        if self._held > SLACK + len(self.feature) // 2:
            self.settle()

    def absorb(self, other: "Pool") -> None:
        other.settle()
        self._added.append(tuple(getattr(other, name) for name in self.PARTS))
        self.settle()

    def settle(self) -> None:
        """Drop what is below the limit; the entries are then sorted by feature, and from best to worst."""
        parts = [tuple(getattr(self, name) for name in self.PARTS), *self._added]
        self._added, self._held = [], 0
        feature, passage, position, key, value, lengths, positions, values = (
            np.concatenate(part) for part in zip(*parts, strict=True)
        )
        order = np.lexsort((position, passage, -key, feature))
        order = order[_first_of_each(feature[order], self.limit)]
        self.feature, self.passage, self.position = feature[order], passage[order], position[order]
        self.key, self.value, self.lengths = key[order], value[order], lengths[order]
        starts = np.concatenate([[0], lengths.cumsum(dtype=np.int64)])
        around = Windows(starts, positions, values).take(order)
        self.positions, self.values = around.positions, around.values
        full = np.bincount(self.feature, minlength=len(self.threshold)) >= self.limit
        last = (
            np.flatnonzero(np.concatenate([self.feature[1:] != self.feature[:-1], [True]]))
            if len(order)
            else order
        )
        self.threshold.fill(-np.inf)
        self.threshold[self.feature[last]] = self.key[last]
        self.threshold[~full] = -np.inf

    def pointed_at(self) -> np.ndarray:
        """The passages of its entries, those not settled yet included."""
        return np.unique(np.concatenate([self.passage, *(columns[1] for columns in self._added)]))

    @property
    def firings(self) -> Firings:
        return Firings(self.feature, self.passage, self.position, self.value)

    @property
    def windows(self) -> Windows:
        return Windows(
            np.concatenate([[0], self.lengths.cumsum(dtype=np.int64)]), self.positions, self.values
        )


def _first_of_each(sorted_keys: np.ndarray, limit: int) -> np.ndarray:
    """[n] bool: is this among the first `limit` of its run of equal keys?"""
    starts = (
        np.flatnonzero(np.concatenate([[True], sorted_keys[1:] != sorted_keys[:-1]]))
        if len(sorted_keys)
        else np.zeros(0, int)
    )
    nth = np.arange(len(sorted_keys)) - np.repeat(
        starts, np.diff(np.concatenate([starts, [len(sorted_keys)]]))
    )
    return nth < limit


def draws(found: Fired, stretch: Stretch) -> np.ndarray:
    """[m] float32 in [0, 1), a hash of the place: a uniform sample that no split or order of the corpus
    changes.
    """
    mixed = (stretch.chance >> np.uint64(32)).astype(np.uint32).take(found.at)
    with np.errstate(over="ignore"):
        mixed ^= _salt(int(found.feature.max(initial=0)) + 1).take(found.feature)
        for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):  # murmur3's last steps
            mixed ^= mixed >> np.uint32(shift)
            mixed *= np.uint32(factor)
    return (mixed >> np.uint32(8)).astype(np.float32) / np.float32(1 << 24)


def _salt(n: int) -> np.ndarray:
    """A number of its own for each feature."""
    return (mix(np.arange(n)) >> np.uint64(32)).astype(np.uint32)
