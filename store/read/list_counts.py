"""How many features a list has, by verdict, relation and kind; where one feature stands in it; one of it by
chance.
"""

from collections import Counter
from typing import Any

import sqlalchemy as sa

from lexiscope.records import Filters, ListCounts, ListPlace
from store import schema
from store.errors import NotFound
from store.read import cursors
from store.read.listing import (
    FEATURE,
    HELD,
    LISTING,
    beyond_listing,
    conditions,
    rows_of,
    sorting,
    with_feature,
)
from store.read.open_build import DictionaryEntry, OpenBuild

FACETS = ("verdict", "relation", "kind")


def list_counts(build: OpenBuild, entry: DictionaryEntry, filters: Filters) -> ListCounts:
    """In one statement. The counts of a facet leave its own filter out, so that they say what another choice
    would give; `holds` is a filter on verdicts.
    """
    kinds = anchor_kinds(build, entry)
    others = filters.model_copy(update=dict.fromkeys((*FACETS, "holds"), None))
    groups = [LISTING.verdict, LISTING.relation, *([FEATURE.anchor_kind] if len(kinds) > 1 else [])]
    statement = (
        sa.select(sa.func.count(), *groups)
        .where(LISTING.dictionary_id == entry.dictionary_id, *conditions(others))
        .group_by(*groups)
    )
    if len(kinds) > 1 or beyond_listing(others):
        statement = with_feature(statement, [entry])
    counts = {facet: Counter[str]() for facet in FACETS}
    total = 0
    for n, verdict, relation, *more in build.rows(statement):
        kind_of = more[0] if more else kinds[0]
        chosen = {
            "verdict": (filters.verdict is None or verdict == filters.verdict)
            and (filters.holds is None or (verdict in HELD) == filters.holds),
            "relation": filters.relation is None or relation == filters.relation,
            "kind": filters.kind is None or kind_of == filters.kind,
        }
        values = {"verdict": verdict, "relation": relation, "kind": kind_of}
        for facet in FACETS:
            if all(met for other, met in chosen.items() if other != facet):
                counts[facet][values[facet]] += n
        total += n if all(chosen.values()) else 0
    del counts["relation"][""]
    return ListCounts(
        total=total,
        verdict=dict(sorted(counts["verdict"].items())),
        relation=dict(sorted(counts["relation"].items())),
        kind=dict(sorted(counts["kind"].items())) if len(kinds) > 1 else {},
    )


def anchor_kinds(build: OpenBuild, entry: DictionaryEntry) -> list[str]:
    """The kinds of anchors that name the features of a dictionary."""

    def read() -> list[str]:
        own = sa.select(FEATURE.anchor_kind).where(FEATURE.dictionary_id == entry.dictionary_id)
        return sorted(row[0] for row in build.rows(own.distinct()))

    return build.cached(("anchor kinds", entry.dictionary_id), read)


def within(entry: DictionaryEntry, filters: Filters) -> Filters:
    """The filters of a dictionary's list: its own model and source, in the order of its features unless
    another is given.
    """
    own: dict[str, object] = {"model": entry.model, "source": entry.source, "layer": None}
    if filters.sort == "match":
        own |= {"sort": "index", "descending": False}
    return filters.model_copy(update=own)


def list_place(build: OpenBuild, entry: DictionaryEntry, filters: Filters, index: int) -> ListPlace:
    """Where a feature stands, or would stand if it passed the filters. The list of all features by number
    needs no query where it has all of them: an imported dictionary may lack some.
    """
    filters = filters.model_copy(update={"cursor": None, "limit": Filters().limit})
    if filters == within(entry, Filters()) and _n_listed(build, entry) == entry.d_sae:
        return ListPlace(
            filters=filters,
            previous=index - 1 if index else None,
            next=index + 1 if index + 1 < entry.d_sae else None,
            position=index,
            total=entry.d_sae,
        )
    keys = sorting(filters)
    own = sa.select(*(key.column.label(f"key_{place}") for place, key in enumerate(keys))).where(
        LISTING.dictionary_id == entry.dictionary_id, LISTING.index == index
    )
    wide = beyond_listing(filters)
    [row] = build.rows(with_feature(own, [entry]) if wide else own)
    backwards = [key.reversed() for key in keys]
    before, after = (
        rows_of(build, [entry], filters, order, beyond=list(row), names=None, limit=1)
        for order in (backwards, keys)
    )
    here = cursors.after(backwards, list(row))
    counted: sa.Select[Any] = sa.select().add_columns(sa.func.count(), sa.func.count(sa.case((here, 1))))
    counted = counted.where(LISTING.dictionary_id == entry.dictionary_id, *conditions(filters))
    [(total, position)] = build.rows(
        with_feature(counted, [entry]) if wide else counted.select_from(schema.listing)
    )
    return ListPlace(
        filters=filters,
        previous=before[0].feature.index if before else None,
        next=after[0].feature.index if after else None,
        position=position,
        total=total,
    )


def _n_listed(build: OpenBuild, entry: DictionaryEntry) -> int:
    """The features that a dictionary was indexed with."""

    def read() -> int:
        own = LISTING.dictionary_id == entry.dictionary_id
        [(n,)] = build.rows(sa.select(sa.func.count()).select_from(schema.listing).where(own))
        return int(n)

    return build.cached(("listed", entry.dictionary_id), read)


def random_of(build: OpenBuild, entry: DictionaryEntry, filters: Filters) -> int:
    """A feature of the list. Raises NotFound where it is empty."""
    statement = sa.select(LISTING.index).where(
        LISTING.dictionary_id == entry.dictionary_id, *conditions(filters)
    )
    if beyond_listing(filters):
        statement = with_feature(statement, [entry])
    rows = build.rows(statement.order_by(sa.func.random()).limit(1))
    if not rows:
        raise NotFound(f"no feature of {entry.id} passes these filters")
    return int(rows[0][0])
