"""Lists of features: filtered, sorted, a page at a time. What search and dictionary pages share."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from lexiscope.records import FeatureRef, Filters
from store import cursors, schema
from store.build import REF_COLUMNS, Build, Dictionary
from store.cursors import Key, Value

LISTING = schema.listing.c
FEW = 1000
"""token ids that a statement names one by one; more go as one array"""


SORTED_HERE = 2000
"""features of a few names: asked for unsorted, because DuckDB's top-N scans the table where its index would find them"""


class Listed(NamedTuple):
    features: list[FeatureRef]
    next: str | None
    """cursor of the next page; None on the last"""


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


def list_features(build: Build, filters: Filters, *, tokens: dict[str, list[int]] | None = None, query: str = "") -> Listed:
    """One page of the features that pass `filters` and, where given, carry a name in `tokens` (model → token ids).

    `query` is what `tokens` came from: a cursor is good for it alone. Raises NotFound, BadCursor.
    """
    entries = asked_dictionaries(build, filters)
    keys = sorting(filters)
    mark = list_mark(filters, query)
    beyond = cursors.decode(filters.cursor, build=build.id, mark=mark, kinds=[key.kind for key in keys]) if filters.cursor else None
    rows = rows_of(build, entries, filters, keys, beyond=beyond, tokens=tokens, limit=filters.limit + 1)
    shown = rows[: filters.limit]
    more = cursors.encode(build=build.id, mark=mark, values=shown[-1].key) if len(rows) > filters.limit else None
    return Listed([row.feature for row in shown], more)


def list_mark(filters: Filters, query: str) -> str:
    return cursors.list_mark(query, filters.model_copy(update={"cursor": None, "limit": 1}).model_dump_json())


class Found(NamedTuple):
    feature: FeatureRef
    key: list[Value]
    """its values in the order asked for"""


def rows_of(
    build: Build,
    entries: Sequence[Dictionary],
    filters: Filters,
    keys: Sequence[Key],
    *,
    beyond: Sequence[Value] | None,
    tokens: dict[str, list[int]] | None,
    limit: int,
    named: int | None = None,
) -> list[Found]:
    """The first `limit` features after `beyond` in the order of `keys`; `named` is how many features carry `tokens`, where known."""
    if not entries or (tokens is not None and not any(tokens.values())):
        return []
    ids = [entry.dictionary_id for entry in entries]
    statement = sa.select(*REF_COLUMNS, *(key.column.label(f"key_{place}") for place, key in enumerate(keys)))
    statement = statement.where(LISTING.dictionary_id.in_(ids), *conditions(filters))
    if tokens is not None:
        statement = statement.where(*_carrying(entries, tokens))
    if beyond is not None:
        statement = statement.where(cursors.after(keys, beyond))
    few = named is not None and named <= SORTED_HERE
    found = build.rows(statement.limit(named) if few else statement.order_by(*(key.order() for key in keys)).limit(limit))
    rows = [(list(row[len(REF_COLUMNS) :]), row) for row in found]
    if few:
        rows.sort(key=lambda pair: [-value if key.descending else value for key, value in zip(keys, pair[0], strict=True)])
    return [Found(build.ref(row), values) for values, row in rows[:limit]]


def _carrying(entries: Sequence[Dictionary], tokens: dict[str, list[int]]) -> list[sa.ColumnElement[bool]]:
    """All the ids together are what an index can look up; where there are several models, each wants its own."""
    models = {model: ids for model, ids in tokens.items() if ids}
    together = [_named(sorted({token_id for ids in models.values() for token_id in ids}))]
    if len(models) == 1:
        [model] = models
        return [*together, LISTING.dictionary_id.in_([entry.dictionary_id for entry in entries if entry.model == model])]
    own = [
        sa.and_(LISTING.dictionary_id.in_([entry.dictionary_id for entry in entries if entry.model == model]), _named(ids))
        for model, ids in models.items()
    ]
    return [*together, sa.or_(*own)]


def _named(ids: list[int]) -> sa.ColumnElement[bool]:
    if len(ids) <= FEW:
        return LISTING.name_token.in_(ids)
    return LISTING.name_token.in_(sa.select(sa.func.unnest(sa.bindparam(None, ids, schema.INTS, unique=True))))


def conditions(filters: Filters) -> list[sa.ColumnElement[bool]]:
    found: list[sa.ColumnElement[bool]] = []
    if filters.min_cosine is not None:
        found.append(LISTING.cosine >= _real(filters.min_cosine))
    if filters.live is not None:
        found.append(LISTING.live == sa.literal(filters.live))
    if filters.verdict is not None:
        found.append(LISTING.verdict == filters.verdict)
    if filters.min_density is not None:
        found.append(LISTING.density >= _real(filters.min_density))
    if filters.max_density is not None:
        found.append(LISTING.density <= _real(filters.max_density))
    return found


def _real(value: float) -> sa.ColumnElement[float]:
    """As the columns are, in 32 bits: what is shown as 0.7 is at least 0.7."""
    return sa.cast(value, sa.REAL)


UNIQUE = (Key(LISTING.dictionary_id), Key(LISTING.index))


def sorting(filters: Filters) -> list[Key]:
    """The order a sort asks for; `match`, which only a search has, is the index's own order."""
    first: dict[str, list[sa.ColumnElement[Any]]] = {
        "match": [],
        "index": [LISTING.index],
        "cosine": [LISTING.cosine],
        "density": [LISTING.density],
        "max_activation": [LISTING.max_activation],
        "name": [LISTING.name_order],
    }
    return [*(Key(column, descending=filters.descending) for column in first[filters.sort]), *UNIQUE]


def unsupported() -> sa.ColumnElement[int]:
    """0 where the evidence supports the name, 1 where it does not: sorts the best-evidenced first."""
    return sa.case((LISTING.supported, 0), else_=1)
