"""The best contexts of every feature so far, in memory bounded by features × limit, whatever the corpus.

A pool keeps, for each feature, the `limit` entries of highest `rank_key`. Adding is associative: any split of a corpus into
batches, in any order, leaves the same entries (ties are settled by passage and position).
"""

import numpy as np

from indexer.firings import Windows


class Pool:
    """rank_key is the activation for top contexts, a random priority for the sample, the pre-activation for near misses."""

    def __init__(self, d_sae: int, limit: int, *, one_a_passage: bool) -> None:
        self.limit, self.one_a_passage = limit, one_a_passage
        self.threshold = np.full(d_sae, -np.inf, dtype=np.float32)
        self._columns = {
            "feature": np.zeros(0, np.int32),
            "passage": np.zeros(0, np.int64),
            "position": np.zeros(0, np.int32),
            "key": np.zeros(0, np.float32),
            "value": np.zeros(0, np.float32),
        }
        self._lengths = np.zeros(0, np.int32)
        self._positions = np.zeros(0, np.int16)
        self._values = np.zeros(0, np.float16)
        self._settled = 0

    def candidates(self, feature: np.ndarray, passage: np.ndarray, key: np.ndarray) -> np.ndarray:
        """Indices of the entries that could enter: above the feature's threshold and, if asked, the best of their passage."""
        rows = np.flatnonzero(key >= self.threshold[feature])
        order = rows[np.lexsort((-key[rows], passage[rows] if self.one_a_passage else rows, feature[rows]))]
        if self.one_a_passage and len(order):
            first = np.ones(len(order), bool)
            first[1:] = (feature[order[1:]] != feature[order[:-1]]) | (passage[order[1:]] != passage[order[:-1]])
            order = order[first]
        return order[_best_rows(feature[order], -key[order], self.limit)] if len(order) else order

    def add(
        self, *, feature: np.ndarray, passage: np.ndarray, position: np.ndarray, key: np.ndarray, value: np.ndarray, around: Windows
    ) -> None:
        """Add entries (already through `candidates`), each with its window; entries that fall below the limit are dropped."""
        new = {"feature": feature, "passage": passage, "position": position, "key": key, "value": value}
        for name, column in self._columns.items():
            self._columns[name] = np.concatenate([column, new[name].astype(column.dtype)])
        self._lengths = np.concatenate([self._lengths, np.diff(around.starts).astype(np.int32)])
        self._positions = np.concatenate([self._positions, around.positions.astype(np.int16)])
        self._values = np.concatenate([self._values, around.values.astype(np.float16)])
        if len(self._lengths) > 1.5 * self._settled + 200_000:
            self._settle()

    def _settle(self) -> None:
        c = self._columns
        order = np.lexsort((c["position"], c["passage"], -c["key"], c["feature"]))
        if self.one_a_passage:
            pair = np.lexsort((c["position"], -c["key"], c["passage"], c["feature"]))
            first = np.ones(len(pair), bool)
            first[1:] = (c["feature"][pair[1:]] != c["feature"][pair[:-1]]) | (c["passage"][pair[1:]] != c["passage"][pair[:-1]])
            best = np.zeros(len(pair), bool)
            best[pair[first]] = True
            order = order[best[order]]
        order = order[_first_of_each(c["feature"][order], self.limit)]
        starts = np.concatenate([[0], self._lengths.cumsum()])
        lengths = self._lengths[order]
        entries = np.repeat(starts[order] - np.concatenate([[0], lengths.cumsum()[:-1]]), lengths) + np.arange(lengths.sum())
        self._columns = {name: column[order] for name, column in c.items()}
        self._lengths, self._positions, self._values = lengths, self._positions[entries], self._values[entries]
        self._settled = len(order)
        feature = self._columns["feature"]
        full = np.bincount(feature, minlength=len(self.threshold)) >= self.limit
        lowest = np.full(len(self.threshold), np.inf, np.float32)
        np.minimum.at(lowest, feature, self._columns["key"])
        self.threshold[full] = lowest[full]

    def settled(self) -> tuple[dict[str, np.ndarray], Windows]:
        """The kept entries, sorted by feature and then from best to worst, with their windows."""
        self._settle()
        starts = np.concatenate([[0], self._lengths.cumsum()])
        return self._columns, Windows(starts, self._positions, self._values)


def _first_of_each(sorted_keys: np.ndarray, limit: int) -> np.ndarray:
    """[n] bool: is this among the first `limit` of its run of equal keys?"""
    starts = np.flatnonzero(np.concatenate([[True], sorted_keys[1:] != sorted_keys[:-1]])) if len(sorted_keys) else np.zeros(0, int)
    nth = np.arange(len(sorted_keys)) - np.repeat(starts, np.diff(np.concatenate([starts, [len(sorted_keys)]])))
    return nth < limit


def _best_rows(feature: np.ndarray, cost: np.ndarray, limit: int) -> np.ndarray:
    """Indices of the `limit` cheapest entries of each feature."""
    order = np.lexsort((cost, feature))
    return order[_first_of_each(feature[order], limit)]


def priority(feature: np.ndarray, passage: np.ndarray, position: np.ndarray) -> np.ndarray:
    """[n] float32 in [0, 1), a hash of the place: a uniform sample that no split or order of the corpus changes."""
    with np.errstate(over="ignore"):
        mixed = (feature.astype(np.uint64) << np.uint64(42)) ^ (passage.astype(np.uint64) << np.uint64(16)) ^ position.astype(np.uint64)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):  # splitmix64
            mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
        mixed ^= mixed >> np.uint64(31)
    return ((mixed >> np.uint64(40)).astype(np.float32) / np.float32(1 << 24)).astype(np.float32)
