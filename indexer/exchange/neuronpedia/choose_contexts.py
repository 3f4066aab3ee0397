"""Which imported contexts are kept, and as what kind: `top` without repeated texts, the others by quantile of
the firings.

SAEDashboard's intervals are equal widths from 0 to the maximum, zeros included, so that nearly all firings
are in the lowest; and a quarter of its contexts repeat a text. Here each text stands once among a feature's
top contexts, the text around a firing stands once among the others, and a quantile is the fifth of the
firings in which the feature's own histogram puts the activation.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import NamedTuple
from zlib import crc32

import numpy as np

from indexer.exchange.neuronpedia.dashboards import DashboardContexts, Dashboards
from indexer.rows.context_rows import QUANTILES, TEXT_AFTER, TEXT_BEFORE
from lexiscope.runs import run_starts

TOP = 20
"""Contexts taken as top contexts where the files mark none."""


@dataclass(frozen=True)
class ImportedTexts:
    """The distinct texts, one after another."""

    tokens: np.ndarray
    """[positions] token ids, −1 for a string that is no token"""
    starts: np.ndarray
    """[texts + 1]"""

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, text: int) -> np.ndarray:
        return self.tokens[self.starts[text] : self.starts[text + 1]]

    def around(self, text: int, place: int) -> bytes:
        """The tokens that make two contexts repeat a text."""
        return self[text][max(0, place - TEXT_BEFORE) : place + TEXT_AFTER + 1].tobytes()


class ChosenContexts(NamedTuple):
    """The kept contexts, sorted by feature, then kind, then strength."""

    feature: np.ndarray
    kind: list[str]
    quantile: list[int | None]
    rank: list[int]
    text: np.ndarray
    place: np.ndarray
    """the position in the text"""
    value: np.ndarray
    entries: list[slice]
    """each one's firings in `DashboardContexts.positions` and `values`"""
    n_repeated: int
    """left out because they repeat another context of the same feature"""
    n_unknown: int
    """left out because they were picked for a string that is no token"""


def imported_texts(contexts: DashboardContexts, token_ids: np.ndarray) -> ImportedTexts:
    """token_ids [strings] the token of each string."""
    starts = np.concatenate([[0], np.cumsum(np.array(contexts.text_lengths, np.int64))])
    return ImportedTexts(token_ids[np.array(contexts.tokens, np.int64)], starts)


def choose_contexts(dashboards: Dashboards, texts: ImportedTexts) -> ChosenContexts:
    contexts = dashboards.contexts
    feature, value = np.array(contexts.feature, np.int64), np.array(contexts.value, np.float32)
    text, place = np.array(contexts.text, np.int64), np.array(contexts.place, np.int64)
    top = np.array(contexts.top, bool)
    content = np.array([crc32(texts[number].tobytes()) for number in range(len(texts))], np.int64)
    order = np.lexsort((place, content[text], -value, feature))  # does not depend on the order of the files
    order = order[texts.tokens[texts.starts[text[order]] + place[order]] >= 0]
    kept: list[int] = []
    kinds: list[str] = []
    quantiles: list[int | None] = []
    ranks: list[int] = []
    bounds = run_starts(feature[order])
    for rows in np.split(order, bounds[1:]) if len(order) else ():
        any_marked = top[rows].any()
        strong = [row for row in rows if top[row] or not any_marked]
        best = _first_of_each(strong, [int(text[row]) for row in strong])[: None if any_marked else TOP]
        taken = set(best)
        others = [row for row in rows if not top[row] and row not in taken]
        around = [texts.around(int(text[row]), int(place[row])) for row in others]
        sampled = _first_of_each(others, around)
        kept += [*best, *sampled]
        kinds += ["top"] * len(best) + ["quantile"] * len(sampled)
        bars = dashboards.features[int(feature[rows[0]])].bars
        quantiles += [*([None] * len(best)), *_quantiles(value[sampled], bars)]
        ranks += [*range(len(best)), *range(len(sampled))]
    ends = np.cumsum(np.array(contexts.lengths, np.int64))
    chosen = np.array(kept, np.int64)
    return ChosenContexts(
        feature=feature[chosen],
        kind=kinds,
        quantile=quantiles,
        rank=ranks,
        text=text[chosen],
        place=place[chosen],
        value=value[chosen],
        entries=[slice(int(ends[row] - contexts.lengths[row]), int(ends[row])) for row in kept],
        n_repeated=len(order) - len(chosen),
        n_unknown=len(feature) - len(order),
    )


def _first_of_each(rows: Sequence[int], keys: Sequence[Hashable]) -> list[int]:
    """The first row of each key."""
    first: dict[Hashable, int] = {}
    for row, key in zip(rows, keys, strict=True):
        first.setdefault(key, row)
    return list(first.values())


def _quantiles(values: np.ndarray, bars: list[tuple[float, int]]) -> list[int]:
    """The part of the firings, of QUANTILES, that each activation is in, 0 the weakest: by the histogram, or
    among the activations themselves where there is none.
    """
    if not bars:
        places = values.argsort(kind="stable").argsort(kind="stable")
        return [int(place) * QUANTILES // len(values) for place in places]
    middles, heights = (np.array(column, float) for column in zip(*sorted(bars), strict=True))
    below = (np.cumsum(heights) - heights / 2) / heights.sum()
    nearest = np.abs(values[:, None] - middles[None]).argmin(1)
    return [min(QUANTILES - 1, int(QUANTILES * share)) for share in below[nearest]]
