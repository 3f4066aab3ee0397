"""One dictionary: its distributions, the tokens that most of its features are near to, aligned features that
fire on something else, and its list of features.
"""

from typing import NamedTuple

import sqlalchemy as sa

from lexiscope.records import (
    NUMBERS,
    AnchorCount,
    DictionaryPage,
    FeatureRow,
    Filters,
    NumberRange,
    Quartiles,
)
from store import schema
from store.read.anchor_page import anchor_counts
from store.read.list_counts import list_counts, within
from store.read.listing import FEATURE, LISTING, list_features
from store.read.open_build import DictionaryEntry, OpenBuild

SHOWN = 20
"""Anchors, hubs and disagreements on the page; all of them have lists of their own."""
ELSEWHERE = "reads_family < 0.1, predicts < 0.1"
"""Firings on the anchor's token or its family, or before it, below which a feature fires elsewhere."""


class Notable(NamedTuple):
    """What a page shows of a dictionary, whatever the list of features."""

    numbers: dict[str, NumberRange]
    cosines: Quartiles | None
    densities: Quartiles | None
    collisions: list[AnchorCount]
    n_collisions: int
    hubs: list[AnchorCount]
    disagreements: list[FeatureRow]
    n_disagreements: int


def dictionary_page(build: OpenBuild, model: str, source: str, filters: Filters) -> DictionaryPage:
    """`/{model}/{source}`. `filters.model`, `.source` and `.layer` are replaced by the dictionary's own.
    Raises NotFound, BadCursor.
    """
    entry = build.dictionary(model, source)
    filters = within(entry, filters)
    listed = list_features(build, filters)
    notable = build.cached(("dictionary page", entry.dictionary_id), lambda: _notable(build, entry))
    return DictionaryPage(
        build=build.id,
        summary=entry.summary,
        hook_name=entry.hook_name,
        training=entry.training,
        metrics=entry.metrics,
        causal=entry.causal,
        cosine_histogram=entry.cosine_histogram,
        density_histogram=entry.density_histogram,
        cosine_quartiles=notable.cosines,
        density_quartiles=notable.densities,
        numbers=notable.numbers,
        collisions=notable.collisions,
        n_collisions=notable.n_collisions,
        hub_tokens=notable.hubs,
        disagreements=notable.disagreements,
        n_disagreements=notable.n_disagreements,
        disagree=disagree(entry),
        filters=filters,
        counts=list_counts(build, entry, filters),
        start=listed.start,
        features=listed.features,
        next=listed.next,
        previous=listed.previous,
    )


def disagree(entry: DictionaryEntry) -> Filters:
    """Live features that are aligned with their anchor and whose name holds, but that fire elsewhere; the
    densest first.
    """
    return Filters(
        model=entry.model,
        source=entry.source,
        live=True,
        holds=True,
        min_cosine=0.8,
        where=ELSEWHERE,
        sort="density",
        descending=True,
    )


def _notable(build: OpenBuild, entry: DictionaryEntry) -> Notable:
    collisions, _, shared = anchor_counts(build, entry, "features", start=0, limit=SHOWN)
    hubs, _, _ = anchor_counts(build, entry, "near", start=0, limit=SHOWN)
    filters = disagree(entry)
    return Notable(
        numbers=_numbers(build, entry),
        cosines=_quartiles(build, entry, LISTING.cosine, LISTING.live),
        densities=_quartiles(build, entry, LISTING.density, LISTING.density > 0),
        collisions=[anchor for anchor in collisions if anchor.n_features > 1],
        n_collisions=shared,
        hubs=[anchor for anchor in hubs if anchor.n_near > 1],
        disagreements=list_features(build, filters.model_copy(update={"limit": SHOWN})).features,
        n_disagreements=list_counts(build, entry, filters).total,
    )


def _numbers(build: OpenBuild, entry: DictionaryEntry) -> dict[str, NumberRange]:
    """The range of each number that is not the same for all features."""
    ends = [end(FEATURE[name]) for name in NUMBERS for end in (sa.func.min, sa.func.max)]
    [row] = build.rows(sa.select(*ends).where(FEATURE.dictionary_id == entry.dictionary_id))
    ranges = dict(zip(NUMBERS, zip(row[::2], row[1::2], strict=True), strict=True))
    return {name: NumberRange(low=low, high=high) for name, (low, high) in ranges.items() if low != high}


def _quartiles(
    build: OpenBuild, entry: DictionaryEntry, column: sa.ColumnElement[float], which: sa.ColumnElement[bool]
) -> Quartiles | None:
    """Of the column, over the features that `which` chooses."""
    at = [sa.func.percentile_cont(share).within_group(column) for share in (0.25, 0.5, 0.75)]
    statement = sa.select(*at).where(LISTING.dictionary_id == entry.dictionary_id, which)
    [(low, median, high)] = build.rows(statement.select_from(schema.listing))
    return None if low is None else Quartiles(low=low, median=median, high=high)
