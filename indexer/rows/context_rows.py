"""From the pools of a dictionary to the rows of its contexts, and of the passages that they point into."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from indexer.counts.context_pools import Pool
from indexer.counts.firings import Windows
from indexer.counts.positions import mix
from indexer.counts.state import NEAR_MISSES, SAMPLED, TOP, Learned

QUANTILES = 5
TEXT_BEFORE, TEXT_AFTER = 8, 4
"""Two contexts are the same text where these tokens around the position are."""
DIGITS = 3
"""Significant digits of the activations around a context's position."""
KINDS = ("top", "quantile", "near_miss")


class Texts:
    """The passages that contexts may point into, laid out flat."""

    def __init__(self, passages: Mapping[int, np.ndarray]) -> None:
        self.ids = np.array(sorted(passages), np.int64)
        parts = [passages[number] for number in self.ids.tolist()]
        self._lengths = np.array([len(part) for part in parts], np.int64)
        self._starts = self._lengths.cumsum() - self._lengths
        self._tokens = np.concatenate([*parts, np.zeros(1, np.int32)])

    def around(self, passage: np.ndarray, position: np.ndarray) -> np.ndarray:
        """[m] a hash of the text around each place."""
        row = np.searchsorted(self.ids, passage)
        start, length = self._starts[row], self._lengths[row]
        hashed = np.zeros(len(passage), np.uint64)
        for offset in range(-TEXT_BEFORE, TEXT_AFTER + 1):
            at = position + offset
            inside = (at >= 0) & (at < length)
            token = np.where(inside, self._tokens[np.where(inside, start + at, 0)], -1)
            hashed = mix(hashed ^ (token + 1).astype(np.uint64))
        return hashed


class _Kept(NamedTuple):
    """Contexts of one kind."""

    rows: np.ndarray
    """of the pool"""
    rank: np.ndarray
    quantile: np.ndarray
    """−1 where the kind has none"""


def context_table(
    seen: Learned, texts: Texts, *, dictionary_id: int, first_passage: int
) -> tuple[pa.Table, np.ndarray]:
    """One row a context, sorted by feature; also the numbers of the passages they point into."""
    limits = (TOP, SAMPLED, NEAR_MISSES)
    kept = [_distinct(pool, texts, limit) for pool, limit in zip(seen.pools, limits, strict=True)]
    kept[1] = _by_quantile(seen.sample, kept[1])
    pools = list(zip(seen.pools, kept, strict=True))

    def column(name: str) -> np.ndarray:
        return np.concatenate([getattr(pool, name)[each.rows] for pool, each in pools])

    kind = np.repeat(np.arange(len(KINDS)), [len(each.rows) for each in kept])
    feature, passage, quantile = (
        column("feature"),
        column("passage"),
        np.concatenate([each.quantile for each in kept]),
    )
    rank = np.concatenate([each.rank for each in kept])
    order = np.lexsort((rank, -quantile, kind, feature))
    windows = [pool.windows.take(each.rows) for pool, each in pools]
    starts = np.concatenate([[0], *(each.lengths for each in windows)]).cumsum()
    around = Windows(
        starts,
        *(np.concatenate([getattr(each, name) for each in windows]) for name in ("positions", "values")),
    ).take(order)
    table = pa.table(
        {
            "dictionary_id": np.full(len(order), dictionary_id, np.int32),
            "feature": feature[order],
            "kind": pa.DictionaryArray.from_arrays(kind[order].astype(np.int32), list(KINDS)).cast(
                pa.string()
            ),
            "quantile": pa.array(quantile[order].astype(np.int32), mask=quantile[order] < 0),
            "rank": rank[order].astype(np.int32),
            "passage": passage[order] + first_passage,
            "position": column("position")[order],
            "value": column("value")[order],
            "positions": pa.ListArray.from_arrays(
                around.starts.astype(np.int32), around.positions.astype(np.int32)
            ),
            "values": pa.ListArray.from_arrays(around.starts.astype(np.int32), rounded(around.values)),
        }
    )
    return table, np.unique(passage)


def _distinct(pool: Pool, texts: Texts, limit: int) -> _Kept:
    """The pool's best entries without those whose text repeats a better one's of the same feature."""
    text = texts.around(pool.passage, pool.position.astype(np.int64))
    pair = mix(text ^ mix(pool.feature))
    _, first = np.unique(pair, return_index=True)
    rows = np.sort(first)
    rank = _rank_in_runs(pool.feature[rows])
    rows, rank = rows[rank < limit], rank[rank < limit]
    return _Kept(rows, rank, np.full(len(rows), -1))


def _by_quantile(pool: Pool, kept: _Kept) -> _Kept:
    """Cut each feature's uniform sample of firings, by activation, into QUANTILES equal parts, 0 the weakest."""
    feature = pool.feature[kept.rows]
    order = np.lexsort((-pool.value[kept.rows], feature))
    rows = kept.rows[order]
    rank = _rank_in_runs(pool.feature[rows])
    sizes = np.bincount(feature, minlength=1)[pool.feature[rows]]
    return _Kept(rows, rank, (sizes - 1 - rank) * QUANTILES // np.maximum(sizes, 1))


def _rank_in_runs(sorted_keys: np.ndarray) -> np.ndarray:
    """[n] 0, 1, 2, … within each run of equal keys."""
    starts = (
        np.flatnonzero(np.concatenate([[True], sorted_keys[1:] != sorted_keys[:-1]]))
        if len(sorted_keys)
        else np.zeros(0, int)
    )
    return np.arange(len(sorted_keys)) - np.repeat(
        starts, np.diff(np.concatenate([starts, [len(sorted_keys)]]))
    )


def rounded(values: np.ndarray) -> np.ndarray:
    """[n] float32 with DIGITS significant digits: what float16 keeps of an activation, in a form that
    compresses.
    """
    exact = values.astype(np.float64)
    scale = 10.0 ** (DIGITS - 1 - np.floor(np.log10(np.maximum(exact, 1e-8))))
    return (np.round(exact * scale) / scale).astype(np.float32)


def passage_table(
    passages: Mapping[int, np.ndarray], used: np.ndarray, *, first_passage: int, corpus: str
) -> pa.Table:
    """The passages that contexts point into, by id."""
    texts = [passages[number] for number in used.tolist()]
    offsets = (
        np.concatenate([[0], np.array([len(text) for text in texts], np.int64)]).cumsum().astype(np.int32)
    )
    return pa.table(
        {
            "passage_id": used + first_passage,
            "corpus": pa.array([corpus] * len(used), pa.string()),
            "tokens": pa.ListArray.from_arrays(
                offsets, np.concatenate([*texts, np.zeros(0, np.int32)]).astype(np.int32)
            ),
        }
    )
