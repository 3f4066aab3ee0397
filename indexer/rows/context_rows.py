"""The rows of `context`, from the pools of a dictionary, and of the passages that they point into."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from indexer.counts.context_pools import ContextPool
from indexer.counts.firings import ContextWindows
from indexer.counts.state import NEAR_MISSES, SAMPLED, TOP, DictionaryCounts
from indexer.rows.columns import rows
from lexiscope.evidence import mix
from lexiscope.runs import rank_in_run
from store import CONTEXT_KINDS

QUANTILES = 5
"""Equal parts that the sample of each feature's firings is cut into, by activation."""
TEXT_BEFORE, TEXT_AFTER = 8, 4
"""Two contexts repeat a text where these tokens around the position are equal."""
DIGITS = 3
"""Significant digits of the activations around a context's position."""


class PassageTexts:
    """The passages that contexts may point into, laid out flat."""

    def __init__(self, passages: Mapping[int, np.ndarray]) -> None:
        self.ids = np.array(sorted(passages), np.int64)
        parts = [passages[number] for number in self.ids.tolist()]
        self._lengths = np.array([len(part) for part in parts], np.int64)
        self._starts = self._lengths.cumsum() - self._lengths
        self._tokens = np.concatenate([*parts, np.zeros(1, np.int32)])

    def hash_around(self, passage: np.ndarray, position: np.ndarray) -> np.ndarray:
        """[m] a hash of the text around each position."""
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
    counts: DictionaryCounts, texts: PassageTexts, *, dictionary_id: int, first_passage: int
) -> tuple[pa.Table, np.ndarray]:
    """One row a context, sorted by feature; also the numbers of the passages they point into."""
    limits = (TOP, SAMPLED, NEAR_MISSES)
    kept = [_distinct(pool, texts, limit) for pool, limit in zip(counts.pools, limits, strict=True)]
    kept[1] = _by_quantile(counts.sample, kept[1])
    pools = list(zip(counts.pools, kept, strict=True))

    def column(name: str) -> np.ndarray:
        return np.concatenate([getattr(pool, name)[part.rows] for pool, part in pools])

    kind = np.repeat(np.arange(len(CONTEXT_KINDS)), [len(part.rows) for part in kept])
    feature, passage = column("feature"), column("passage")
    rank, quantile = (np.concatenate([getattr(part, name) for part in kept]) for name in ("rank", "quantile"))
    order = np.lexsort((rank, -quantile, kind, feature))
    around = _joined([pool.windows.take(part.rows) for pool, part in pools]).take(order)
    starts = around.starts.astype(np.int32)
    columns = {
        "dictionary_id": np.full(len(order), dictionary_id),
        "feature": feature[order],
        "kind": pa.DictionaryArray.from_arrays(kind[order].astype(np.int32), list(CONTEXT_KINDS)),
        "quantile": quantile[order],
        "rank": rank[order],
        "passage": passage[order] + first_passage,
        "position": column("position")[order],
        "value": column("value")[order],
        "positions": pa.ListArray.from_arrays(starts, around.positions.astype(np.int32)),
        "values": pa.ListArray.from_arrays(starts, rounded(around.values)),
    }
    return rows("context", columns), np.unique(passage)


def _joined(windows: list[ContextWindows]) -> ContextWindows:
    starts = np.concatenate([[0], *(part.lengths for part in windows)]).cumsum()
    positions, values = (
        np.concatenate([getattr(part, name) for part in windows]) for name in ("positions", "values")
    )
    return ContextWindows(starts, positions, values)


def _distinct(pool: ContextPool, texts: PassageTexts, limit: int) -> _Kept:
    """The pool's best `limit` entries of each feature, without those that repeat the text of a better one."""
    text = texts.hash_around(pool.passage, pool.position.astype(np.int64))
    _, first = np.unique(mix(text ^ mix(pool.feature)), return_index=True)
    kept = np.sort(first)
    rank = rank_in_run(pool.feature[kept])
    kept, rank = kept[rank < limit], rank[rank < limit]
    return _Kept(kept, rank, np.full(len(kept), -1))


def _by_quantile(pool: ContextPool, kept: _Kept) -> _Kept:
    """Cut each feature's uniform sample of firings, by activation, into QUANTILES equal parts,
    0 the weakest.
    """
    feature = pool.feature[kept.rows]
    ordered = kept.rows[np.lexsort((-np.abs(pool.value[kept.rows]), feature))]
    rank = rank_in_run(pool.feature[ordered])
    sizes = np.bincount(feature, minlength=1)[pool.feature[ordered]]
    return _Kept(ordered, rank, (sizes - 1 - rank) * QUANTILES // np.maximum(sizes, 1))


def rounded(values: np.ndarray) -> np.ndarray:
    """[n] float32 with DIGITS significant digits: what float16 keeps of an activation, in a form that
    compresses well.
    """
    exact = values.astype(np.float64)
    scale = 10.0 ** (DIGITS - 1 - np.floor(np.log10(np.maximum(np.abs(exact), 1e-8))))
    return (np.round(exact * scale) / scale).astype(np.float32)


def passage_table(
    passages: Mapping[int, np.ndarray], numbers: np.ndarray, *, first_passage: int, corpus: str
) -> pa.Table:
    """The passages of the given numbers; `corpus` is the text's fingerprint."""
    texts = [passages[number] for number in numbers.tolist()]
    offsets = np.concatenate([[0], np.array([len(text) for text in texts], np.int64)]).cumsum()
    tokens = np.concatenate([np.zeros(0, np.int32), *texts]).astype(np.int32)
    columns = {
        "passage_id": numbers + first_passage,
        "corpus": [corpus] * len(numbers),
        "tokens": pa.ListArray.from_arrays(offsets.astype(np.int32), tokens),
    }
    return rows("passage", columns)
