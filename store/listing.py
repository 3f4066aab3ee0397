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


LOOKED_UP = 2000
"""features of a few names: DuckDB's index finds them, but only where nothing else is asked of the table"""


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


def list_features(
    build: Build, filters: Filters, *, tokens: dict[str, list[int]] | None = None, named: int = 0, query: str = ""
) -> Listed:
    """One page of the features that pass `filters` and, where given, carry a name in `tokens` (model → token ids), as `named` do.

    `query` is what `tokens` came from: a cursor is good for it alone. Raises NotFound, BadCursor.
    """
    entries = asked_dictionaries(build, filters)
    keys = sorting(filters)
    mark = list_mark(filters, query)
    beyond = cursors.decode(filters.cursor, build=build.id, mark=mark, kinds=[key.kind for key in keys]) if filters.cursor else None
    rows = rows_of(build, entries, filters, keys, beyond=beyond, tokens=tokens, named=named, limit=filters.limit + 1)
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
    named: int,
    limit: int,
) -> list[Found]:
    """The first `limit` features after `beyond` in the order of `keys`; `named` is how many features carry `tokens`, where given."""
    if not entries or (tokens is not None and not any(tokens.values())):
        return []
    statement = sa.select(*REF_COLUMNS, *(key.column.label(f"key_{place}") for place, key in enumerate(keys))).where(*conditions(filters))
    if tokens is None:
        statement = statement.where(*_within(build, entries))
    else:
        together = _named(sorted({token_id for ids in tokens.values() for token_id in ids}))
        statement = statement.where(_carrying(build, entries, tokens))
        statement = statement.add_cte(looked_up(together)) if named <= LOOKED_UP else statement.where(together)
    if beyond is not None:
        statement = statement.where(cursors.after(keys, beyond))
    rows = build.rows(statement.order_by(*(key.order() for key in keys)).limit(limit))
    return [Found(build.ref(row), list(row[len(REF_COLUMNS) :])) for row in rows]


def looked_up(condition: sa.ColumnElement[bool]) -> sa.CTE:
    """The rows of `listing` that an index finds by `condition`, to a statement that it is added to the whole of `listing`."""
    return sa.select(schema.listing).where(condition).cte(schema.listing.name).prefix_with("MATERIALIZED")


XXX

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
