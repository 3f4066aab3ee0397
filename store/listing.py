"""Lists of features: filtered, sorted, a page at a time. What search and dictionary pages share."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from lexiscope.records import FeatureRef, Filters
from store import cursors, schema
from store.build import REF_COLUMNS, Build, Dictionary
from store.cursors import Key

FEATURE = schema.feature.c


class Listed(NamedTuple):
    features: list[FeatureRef]
    next: str | None
    """cursor of the next page; None on the last"""


class Named(NamedTuple):
    """A search's matching tokens as a subquery: `model`, `token_id`, `tier` (smaller is a better match)."""

    tokens: sa.Subquery
    query: str


def asked_dictionaries(build: Build, filters: Filters) -> list[Dictionary]:
    """The dictionaries that the filters leave in. Raises NotFound for a model or source that the index lacks."""
    entries = list(build.dictionaries.values()) if filters.model is None else build.of_model(filters.model)
    if filters.model is not None and filters.source is not None:
        entries = [build.dictionary(filters.model, filters.source)]
    return [
        entry
        for entry in entries
        if (filters.source is None or entry.source == filters.source) and (filters.layer is None or entry.layer == filters.layer)
    ]


def list_features(build: Build, filters: Filters, *, named: Named | None = None) -> Listed:
    """One page of the features that pass `filters` and, where given, carry a name in `named`. Raises NotFound, BadCursor."""
    entries = asked_dictionaries(build, filters)
    if not entries:
        return Listed([], None)
    keys = _keys(filters, named)
    joined: sa.FromClause = schema.feature
    if named is not None or filters.sort == "name":
        joined = joined.join(schema.dictionary, schema.dictionary.c.dictionary_id == FEATURE.dictionary_id)
    if filters.sort == "name":
        token = schema.token.c
        joined = joined.join(schema.token, sa.and_(token.model == schema.dictionary.c.model, token.token_id == FEATURE.name_token))
    if named is not None:
        match = named.tokens.c
        joined = joined.join(named.tokens, sa.and_(match.model == schema.dictionary.c.model, match.token_id == FEATURE.name_token))
    labelled = [key.column.label(f"key_{place}") for place, key in enumerate(keys)]
    statement = sa.select(*REF_COLUMNS, *labelled).select_from(joined)
    statement = statement.where(FEATURE.dictionary_id.in_([entry.dictionary_id for entry in entries]), *_conditions(filters))
    mark = cursors.list_mark(named.query if named else None, filters.model_copy(update={"cursor": None, "limit": 1}).model_dump_json())
    if filters.cursor:
        values = cursors.decode(filters.cursor, build=build.id, mark=mark, n_values=len(keys))
        statement = statement.where(cursors.after(keys, values))
    rows = build.rows(statement.order_by(*(key.order() for key in keys)).limit(filters.limit + 1))
    shown = rows[: filters.limit]
    more = cursors.encode(build=build.id, mark=mark, values=list(shown[-1][len(REF_COLUMNS) :])) if len(rows) > filters.limit else None
    return Listed([build.ref(row) for row in shown], more)


def _conditions(filters: Filters) -> list[sa.ColumnElement[bool]]:
    conditions: list[sa.ColumnElement[bool]] = []
    if filters.min_cosine is not None:
        conditions.append(FEATURE.cosine >= filters.min_cosine)
    if filters.live is not None:
        conditions.append(FEATURE.live == sa.literal(filters.live))
    if filters.verdict is not None:
        conditions.append(FEATURE.verdict == filters.verdict)
    if filters.min_density is not None:
        conditions.append(FEATURE.density >= filters.min_density)
    if filters.max_density is not None:
        conditions.append(FEATURE.density <= filters.max_density)
    return conditions


def _keys(filters: Filters, named: Named | None) -> Sequence[Key]:
    unique = [Key(FEATURE.dictionary_id), Key(FEATURE.index)]
    first: dict[str, list[sa.ColumnElement[Any]]] = {
        "match": [],
        "index": [FEATURE.index],
        "cosine": [FEATURE.cosine],
        "density": [FEATURE.density],
        "max_activation": [FEATURE.max_activation],
        "name": [schema.token.c.folded, schema.token.c.shown],
    }
    if filters.sort == "match" and named is not None:
        return [Key(named.tokens.c.tier), Key(unsupported()), Key(FEATURE.cosine, descending=True), *unique]
    return [*(Key(column, descending=filters.descending) for column in first[filters.sort]), *unique]


def unsupported() -> sa.ColumnElement[int]:
    """0 where the evidence supports the name, 1 where it does not: sorts the best-evidenced first."""
    return sa.case((FEATURE.supported, 0), else_=1)
