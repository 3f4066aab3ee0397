"""A whole filtered list of features with all their numbers, in pieces that fit in memory."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import sqlalchemy as sa

from lexiscope.records import NUMBERS, FeatureRef, Filters
from store.read import cursors
from store.read.cursors import Value
from store.read.listing import FEATURE, LISTING, conditions, sorting, with_feature
from store.read.open_build import REF_COLUMNS, DictionaryEntry, OpenBuild

PIECE = 2000


class ListedNumbers(NamedTuple):
    feature: FeatureRef
    kind: str
    """of its nearest anchor"""
    numbers: dict[str, float | None]
    """by the names in NUMBERS"""


def whole_list(build: OpenBuild, entry: DictionaryEntry, filters: Filters) -> Iterator[list[ListedNumbers]]:
    """Pieces in the order of the filters; one empty piece of an empty list."""
    keys = sorting(filters)
    columns = [FEATURE[name].label(f"number_{place}") for place, name in enumerate(NUMBERS)]
    ordered = [key.column.label(f"key_{place}") for place, key in enumerate(keys)]
    statement = with_feature(
        sa.select(*REF_COLUMNS, FEATURE.anchor_kind, *columns, *ordered).where(
            LISTING.dictionary_id == entry.dictionary_id, *conditions(filters)
        ),
        [entry],
    ).order_by(*(key.order() for key in keys))
    first, end = len(REF_COLUMNS) + 1, len(REF_COLUMNS) + 1 + len(NUMBERS)
    beyond: Sequence[Value] | None = None
    while True:
        piece = statement if beyond is None else statement.where(cursors.after(keys, beyond))
        rows = build.rows(piece.limit(PIECE))
        if rows or beyond is None:
            yield [
                ListedNumbers(build.ref(row), row[first - 1], dict(zip(NUMBERS, row[first:end], strict=True)))
                for row in rows
            ]
        if len(rows) < PIECE:
            return
        beyond = list(rows[-1][end:])
