"""Which imported contexts are kept, and as what: `top` without repeated texts, the others as quantiles of
what fires.

SAEDashboard's intervals are equal widths from 0 to the maximum, zeros included, so that nearly all that fires
is in the lowest; and a quarter of its contexts repeat a text. Here each text stands once among a feature's
top contexts, each stretch around a firing once among the others, and a quantile is the fifth of the firings
that the feature's own histogram puts the activation in.
"""

from itertools import pairwise
from typing import NamedTuple
from zlib import crc32

import numpy as np

from indexer.exchange.neuronpedia.contents import Contexts, Dashboards

TOP = 20
"""Contexts taken as top ones where the files mark none."""
QUANTILES = 5
AROUND = (8, 5)
"""Tokens before and from a firing on that make two contexts the same, as for an index of one's own."""


class Texts(NamedTuple):
    """The distinct texts, one after another."""

    tokens: np.ndarray
    """[positions] token ids, −1 for a string that is no token"""
    starts: np.ndarray
    """[texts + 1]"""


class Chosen(NamedTuple):
    """The kept contexts, sorted by feature, then kind, then strength."""

    feature: np.ndarray
    kind: list[str]
    quantile: list[int | None]
    rank: list[int]
    text: np.ndarray
    place: np.ndarray
    value: np.ndarray
    entries: list[slice]
    """each one's firings in `Contexts.positions` and `values`"""
    repeated: int
    """left out because they repeat another of the same feature"""
    on_unknown: int
    """left out because they were picked for a string that is no token"""


def texts_of(contexts: Contexts, ids: np.ndarray) -> Texts:
    """ids [strings] the token of each string."""
    starts = np.concatenate([[0], np.cumsum(np.array(contexts.text_lengths, np.int64))])
    return Texts(ids[np.array(contexts.tokens, np.int64)], starts)


def choose(found: Dashboards, texts: Texts) -> Chosen:
    contexts = found.contexts
    feature, value = np.array(contexts.feature, np.int64), np.array(contexts.value, np.float32)
    text, place, top = (
        np.array(contexts.text, np.int64),
        np.array(contexts.place, np.int64),
        np.array(contexts.top, bool),
    )
    ends = np.cumsum(np.array(contexts.lengths, np.int64))
    same_in_any_order = np.array(
        [crc32(texts.tokens[a:b].tobytes()) for a, b in pairwise(texts.starts.tolist())], np.int64
    )
    order = np.lexsort((place, same_in_any_order[text], -value, feature))
    order = order[texts.tokens[texts.starts[text[order]] + place[order]] >= 0]
    bounds = np.flatnonzero(np.diff(feature[order], prepend=-1))
    kept: list[int] = []
    kinds: list[str] = []
    quantiles: list[int | None] = []
    ranks: list[int] = []
    for rows in np.split(order, bounds[1:]) if len(order) else []:
        marked = top[rows].any()
        strong = [row for row in rows if not marked or top[row]]
        best = _without_repeats(strong, [int(text[row]) for row in strong])[: None if marked else TOP]
        taken = set(best)
        others = [row for row in rows if not top[row] and row not in taken]
        around = [_around(texts, int(text[row]), int(place[row])) for row in others]
        sampled = _without_repeats(others, around)
        kept += [*best, *sampled]
        kinds += ["top"] * len(best) + ["quantile"] * len(sampled)
        quantiles += [None] * len(best) + _fifths(value[sampled], found.features[int(feature[rows[0]])].bars)
        ranks += [*range(len(best)), *range(len(sampled))]
    rows = np.array(kept, np.int64)
    entries = [slice(int(ends[row] - contexts.lengths[row]), int(ends[row])) for row in kept]
    return Chosen(
        feature[rows],
        kinds,
        quantiles,
        ranks,
        text[rows],
        place[rows],
        value[rows],
        entries,
        len(order) - len(rows),
        len(feature) - len(order),
    )


def _without_repeats(rows: list[int], keys: list[int] | list[bytes]) -> list[int]:
    """The first row of each key."""
    first: dict[int | bytes, int] = {}
    for row, key in zip(rows, keys, strict=True):
        first.setdefault(key, row)
    return list(first.values())


def _around(texts: Texts, text: int, place: int) -> bytes:
    start, end = int(texts.starts[text]), int(texts.starts[text + 1])
    at = start + place
    return texts.tokens[max(start, at - AROUND[0]) : min(end, at + AROUND[1])].tobytes()


def _fifths(values: np.ndarray, bars: list[tuple[float, int]]) -> list[int]:
    """The fifth of the firings that each activation is in, 0 the weakest: by the histogram, or among
    themselves where there is none.
    """
    if not bars:
        places = values.argsort(kind="stable").argsort(kind="stable")
        return [int(place) * QUANTILES // len(values) for place in places]
    middles, heights = (np.array(column, float) for column in zip(*sorted(bars), strict=True))
    below = (np.cumsum(heights) - heights / 2) / heights.sum()
    nearest = np.abs(values[:, None] - middles[None]).argmin(1)
    return [min(QUANTILES - 1, int(QUANTILES * share)) for share in below[nearest]]
