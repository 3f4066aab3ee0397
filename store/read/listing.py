"""Lists of features, filtered and sorted, one page at a time; shared by search and dictionary pages."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from lexiscope.records import FeatureRef, Filters
from store import schema
from store.read import cursors
from store.read.cursors import SortKey, Value
from store.read.open_build import REF_COLUMNS, DictionaryEntry, OpenBuild
from store.read.vocabulary import VocabularyEntry

LISTING = schema.listing.c
TOKEN, BY_RELATION, TOKEN_PLACE, TURN = (
    sa.column(name, sa.Integer) for name in ("token", "by_relation", "token_place", "turn")
)
"""Columns that `carriers` adds to those of `listing`."""
MAX_LISTED_TOKENS = 1000
"""Tokens that a statement lists one by one; more are passed as one array."""
MAX_INDEXED_FEATURES = 2000
"""Features that an index finds faster than a scan of the table does."""


class NameFilter:
    """The names of the features to list."""

    def __init__(self) -> None:
        self.tokens: dict[str, list[int]] = {}
        """model → token ids, at least one each"""
        self.n_features = 0
        """features with these names"""

    def add(self, model: str, entry: VocabularyEntry) -> None:
        """Add a token, unless it names nothing."""
        if entry.n_features:
            self.tokens.setdefault(model, []).append(entry.token.id)
            self.n_features += entry.n_features

    def join(self, other: "NameFilter") -> None:
        """Add all tokens of another filter."""
        for model, ids in other.tokens.items():
            self.tokens.setdefault(model, []).extend(ids)
        self.n_features += other.n_features


class FeatureList(NamedTuple):
    features: list[FeatureRef]
    next: str | None
    """cursor of the next page; None on the last"""


def filtered_dictionaries(build: OpenBuild, filters: Filters) -> list[DictionaryEntry]:
    """The dictionaries that pass the filters. Raises NotFound for a model or source that the index lacks."""
    entries = list(build.dictionaries.values()) if filters.model is None else build.of_model(filters.model)
    if filters.model is not None and filters.source is not None:
        entries = [build.dictionary(filters.model, filters.source)]
    return [
        entry
        for entry in entries
        if (filters.source is None or entry.source == filters.source)
        and (filters.layer is None or entry.layer == filters.layer)
    ]


def list_features(
    build: OpenBuild, filters: Filters, *, names: NameFilter | None = None, query: str = ""
) -> FeatureList:
    """One page of the features that pass `filters` and, where given, have one of `names`. `query` is where
    the names came from; a cursor is valid for that query only. Raises NotFound, BadCursor.
    """
    entries = filtered_dictionaries(build, filters)
    keys = sorting(filters)
    mark = list_mark(filters, query)
    beyond = (
        cursors.decode(filters.cursor, build=build.id, mark=mark, kinds=[key.kind for key in keys])
        if filters.cursor
        else None
    )
    rows = rows_of(build, entries, filters, keys, beyond=beyond, names=names, limit=filters.limit + 1)
    shown = rows[: filters.limit]
    more = (
        cursors.encode(build=build.id, mark=mark, values=shown[-1].key) if len(rows) > filters.limit else None
    )
    return FeatureList([row.feature for row in shown], more)


def list_mark(filters: Filters, query: str) -> str:
    return cursors.list_mark(query, filters.model_copy(update={"cursor": None, "limit": 1}).model_dump_json())


class ListedFeature(NamedTuple):
    feature: FeatureRef
    key: list[Value]
    """its values in the columns that the list is sorted by"""


def rows_of(
    build: OpenBuild,
    entries: Sequence[DictionaryEntry],
    filters: Filters,
    keys: Sequence[SortKey],
    *,
    beyond: Sequence[Value] | None,
    names: NameFilter | None,
    limit: int,
    earlier: NameFilter | None = None,
) -> list[ListedFeature]:
    """The first `limit` features after `beyond` in the order of `keys`. With `earlier`, which leaves out the
    features that those tokens name, `keys` may be columns of `by_name`; a feature of several names then
    stands at the commonest.
    """
    if not entries or (names is not None and not names.tokens):
        return []
    statement = sa.select(
        *REF_COLUMNS, *(key.column.label(f"key_{place}") for place, key in enumerate(keys))
    ).where(*conditions(filters))
    if names is None:
        statement = statement.where(*_within(build, entries))
    elif earlier is None:
        statement = statement.where(*_within(build, entries), LISTING.key.in_(_keys(build, names)))
    else:
        found = carriers(_named_by(build, names))
        if names.n_features <= MAX_INDEXED_FEATURES:
            found = found.prefix_with("MATERIALIZED")
        statement = statement.where(*_within(build, entries), TURN == 1).add_cte(found)
        if earlier.tokens:
            statement = statement.where(LISTING.key.not_in(_keys(build, earlier)))
    if beyond is not None:
        statement = statement.where(cursors.after(keys, beyond))
    rows = build.rows(statement.order_by(*(key.order() for key in keys)).limit(limit))
    return [ListedFeature(build.ref(row), list(row[len(REF_COLUMNS) :])) for row in rows]


def carriers(condition: sa.ColumnElement[bool]) -> sa.CTE:
    """A CTE named `listing`, which a statement over that table then reads instead: the rows of `by_name` that
    meet `condition`, a feature once for each token that names it, the commonest in `TURN` 1.

    Materialized, it keeps other conditions apart: DuckDB uses an index only for a condition on one column.
    """
    named = schema.by_name.c
    turn = sa.func.row_number().over(partition_by=named.key, order_by=named.token_place).label(TURN.name)
    return sa.select(schema.by_name, turn).where(condition).cte(schema.listing.name)


def _within(build: OpenBuild, entries: Sequence[DictionaryEntry]) -> list[sa.ColumnElement[bool]]:
    """No condition where it is all dictionaries: planning a list of thirty ids takes a database a
    millisecond.
    """
    return (
        []
        if len(entries) == len(build.dictionaries)
        else [LISTING.dictionary_id.in_([entry.dictionary_id for entry in entries])]
    )


def _named_by(build: OpenBuild, names: NameFilter) -> sa.ColumnElement[bool]:
    """A condition on `by_name`. Token ids belong to a model: of several, each has its own condition."""
    named = schema.by_name.c
    own = {model: _among(named.token, ids) for model, ids in names.tokens.items()}
    if len(own) == 1 and len(build.models) == 1:
        return own.popitem()[1]
    of_model = {
        model: [entry.dictionary_id for entry in build.dictionaries.values() if entry.model == model]
        for model in own
    }
    return sa.or_(*(sa.and_(named.dictionary_id.in_(of_model[model]), among) for model, among in own.items()))


def _keys(build: OpenBuild, names: NameFilter) -> sa.Select[Any]:
    """Keys of the features that any of the tokens names."""
    return sa.select(schema.by_name.c.key).where(_named_by(build, names))


def _among(column: sa.ColumnElement[int], ids: list[int]) -> sa.ColumnElement[bool]:
    """DuckDB turns consecutive ids into a range, for which it uses no index. One id given twice keeps them a
    list.
    """
    if len(ids) <= MAX_LISTED_TOKENS:
        return column.in_([*ids, ids[-1]])
    return column.in_(sa.select(sa.func.unnest(sa.bindparam(None, ids, schema.INTS, unique=True))))


def conditions(filters: Filters) -> list[sa.ColumnElement[bool]]:
    wanted: list[sa.ColumnElement[bool]] = []
    if filters.min_cosine is not None:
        wanted.append(LISTING.cosine >= _real(filters.min_cosine))
    if filters.live is not None:
        wanted.append(LISTING.live == sa.literal(filters.live))
    if filters.relation is not None:
        wanted.append(LISTING.relation == filters.relation)
    if filters.min_share is not None:
        wanted.append(LISTING.share >= _real(filters.min_share))
    if filters.verdict is not None:
        wanted.append(LISTING.verdict == filters.verdict)
    if filters.min_density is not None:
        wanted.append(LISTING.density >= _real(filters.min_density))
    if filters.max_density is not None:
        wanted.append(LISTING.density <= _real(filters.max_density))
    return wanted


def _real(value: float) -> sa.ColumnElement[float]:
    """In 32 bits, as the columns are: a value shown as 0.7 is then at least 0.7."""
    return sa.cast(value, sa.REAL)


UNIQUE = (SortKey(LISTING.dictionary_id), SortKey(LISTING.index))


def sorting(filters: Filters) -> list[SortKey]:
    """The columns of each sort; `match`, which only a search has, is the index's own order."""
    first: dict[str, list[sa.ColumnElement[Any]]] = {
        "match": [],
        "index": [LISTING.index],
        "share": [LISTING.share],
        "cosine": [LISTING.cosine],
        "density": [LISTING.density],
        "max_activation": [LISTING.max_activation],
        "name": [LISTING.name_order],
    }
    return [*(SortKey(column, descending=filters.descending) for column in first[filters.sort]), *UNIQUE]
