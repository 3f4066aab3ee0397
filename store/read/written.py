"""Which directions raise a token: those that were steered and measured, and features whose write list holds
it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import sqlalchemy as sa

from lexiscope.records import FeatureRef, RaisedBy, Token
from store import schema
from store.read.feature_page import REFS
from store.read.open_build import REF_COLUMNS, DictionaryEntry, OpenBuild, Row, integer_parameter
from store.read.token_rows import direction_refs

MAX_LISTED = 20
"""Features of a dictionary whose write lists hold the token."""
WRITTEN, BY_WRITE, LISTING = schema.written.c, schema.by_write.c, schema.listing.c

MEASURED = sa.select(schema.written).where(WRITTEN.token_id == integer_parameter("token"))
_PLACE = (
    sa.func.row_number()
    .over(partition_by=BY_WRITE.dictionary_id, order_by=(BY_WRITE.place, BY_WRITE.value.desc(), BY_WRITE.key))
    .label("turn")
)
_LISTED = sa.select(schema.by_write, _PLACE).where(BY_WRITE.token == integer_parameter("token")).subquery()
LISTED = (
    sa.select(*REF_COLUMNS, _LISTED.c.place)
    .join(_LISTED, _LISTED.c.key == LISTING.key)
    .where(_LISTED.c.turn <= MAX_LISTED)
    .order_by(_LISTED.c.place, _LISTED.c.value.desc(), LISTING.key)
)


RAISED = (
    sa.select(schema.written)
    .where(
        WRITTEN.dictionary_id == integer_parameter("dictionary"),
        WRITTEN.index == integer_parameter("feature"),
        WRITTEN.kind == "feature",
        WRITTEN.above,
    )
    .order_by(WRITTEN.rise.desc(), WRITTEN.token_id)
    .limit(1)
)


class Raised(NamedTuple):
    """The token that a feature raised most of those it was steered for, and above its controls."""

    token: Token
    measured: RaisedBy


class WrittenBy(NamedTuple):
    """What raises one token, in some dictionaries of a model."""

    measured: list[RaisedBy]
    """by intervention, the largest rise first"""
    listed: list[FeatureRef]
    """features that were not measured and whose write list holds the token, the strongest first"""


def raised_by(build: OpenBuild, ref: FeatureRef) -> Raised | None:
    """None where the feature was not steered, or raised nothing above its controls."""
    entry = build.dictionary(ref.model, ref.source)
    for row in build.rows(RAISED, dictionary=entry.dictionary_id, feature=ref.index):
        return Raised(build.vocabulary(ref.model).get(row.token_id), _measured(entry, ref, row))
    return None


def _measured(entry: DictionaryEntry, ref: FeatureRef, row: Row) -> RaisedBy:
    return RaisedBy(
        kind=row.kind,
        source=entry.source,
        layer=entry.layer,
        feature=ref,
        rise=row.rise,
        control=row.control,
        strength=row.strength,
        above=row.above,
    )


def written_by(build: OpenBuild, entries: Sequence[DictionaryEntry], token_id: int) -> WrittenBy:
    own = {entry.dictionary_id: entry for entry in entries}
    rows = [row for row in build.rows(MEASURED, token=token_id) if row.dictionary_id in own]
    keys = [schema.key_of(row.dictionary_id, row[3]) for row in rows if row.kind == "feature"]
    refs = {(row[0], row[1]): build.ref(row) for row in build.rows(REFS, keys=keys)} if keys else {}
    measured = []
    for row in rows:
        entry = own[row.dictionary_id]
        if row.kind == "feature":
            ref = refs[row.dictionary_id, row[3]]
        else:
            [ref] = direction_refs(build, entry, [token_id], row.kind)
        measured.append(_measured(entry, ref, row))
    measured.sort(key=lambda one: (-one.rise, one.layer, one.source, one.kind))
    known = {one.feature.id for one in measured}
    listed = [build.ref(row) for row in build.rows(LISTED, token=token_id) if row.dictionary_id in own]
    return WrittenBy(measured, [ref for ref in listed if ref.id not in known])
