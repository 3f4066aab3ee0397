"""Lists of features, filtered and sorted, one page at a time; shared by search and dictionary pages."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import sqlalchemy as sa

from lexiscope.records import NUMBERS, Condition, FeatureRef, FeatureRow, Filters
from store import schema
from store.read import cursors
from store.read.cursors import Cursor, SortKey, Value
from store.read.open_build import REF_COLUMNS, DictionaryEntry, OpenBuild
from store.read.vocabulary import VocabularyEntry

LISTING, FEATURE = schema.listing.c, schema.feature.c
TOKEN, BY_RELATION, TOKEN_PLACE, TURN = (
    sa.column(name, sa.Integer) for name in ("token", "by_relation", "token_place", "turn")
)
"""Columns that `carriers` adds to those of `listing`."""
MAX_LISTED_TOKENS = 1000
"""Tokens that a statement lists one by one; more are passed as one array."""
MAX_INDEXED_FEATURES = 2000
"""Features that an index finds faster than a scan of the table does."""
ABSENT = 2.0**126
"""What a number that was not measured is sorted as, with the sign that puts it last."""
HELD = ("specific", "partial")
"""Verdicts of names that hold."""


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
    features: list[FeatureRow]
    next: str | None = None
    """cursor of the next page; None on the last"""
    previous: str | None = None
    """cursor of the page before; None on the first"""
    start: int = 0
    """features before the first of the page"""


def filtered_dictionaries(build: OpenBuild, filters: Filters) -> list[DictionaryEntry]:
    """The dictionaries that pass the filters. Raises NotFound for a model, source or layer that the index
    lacks.
    """
    return build.chosen(filters.model, filters.source, filters.layer)


def list_features(
    build: OpenBuild, filters: Filters, *, names: NameFilter | None = None, query: str = ""
) -> FeatureList:
    """One page of the features that pass `filters` and, where given, have one of `names`. `query` is where
    the names came from; a cursor is valid for that query only. Raises NotFound, BadCursor.
    """
    entries = filtered_dictionaries(build, filters)
    keys, mark = sorting(filters), list_mark(filters, query)
    at = (
        cursors.decode(filters.cursor, build=build.id, mark=mark, kinds=[key.kind for key in keys])
        if filters.cursor
        else None
    )
    order = [key.reversed() for key in keys] if at is not None and at.back else keys
    beyond = None if at is None else at.values
    rows = rows_of(build, entries, filters, order, beyond=beyond, names=names, limit=filters.limit + 1)
    return one_page(build, rows, at, filters, mark)


def one_page(
    build: OpenBuild, rows: Sequence["ListedFeature"], at: Cursor | None, filters: Filters, mark: str
) -> FeatureList:
    """A page of rows that were read from `at` on, or back from it: the limit of the filters, and one more
    where the list goes on.
    """
    limit, back = filters.limit, at is not None and at.back
    more, shown = len(rows) > limit, list(rows[:limit])
    if back:
        shown.reverse()
    start = 0 if at is None else max(at.place - len(shown), 0) if back else at.place

    def cursor(row: ListedFeature, place: int, *, back: bool) -> str:
        return cursors.encode(Cursor(row.key, place, back), build=build.id, mark=mark)

    return FeatureList(
        [_row(row, filters) for row in shown],
        next=cursor(shown[-1], start + len(shown), back=False) if shown and (back or more) else None,
        previous=cursor(shown[0], start, back=True) if shown and start else None,
        start=start,
    )


def _row(row: "ListedFeature", filters: Filters) -> FeatureRow:
    number = row.key[0] if filters.sort in NUMBERS and abs(row.key[0]) < ABSENT else None
    return FeatureRow(**dict(row.feature), sorted_by=number)


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
    if beyond_listing(filters):
        statement = with_feature(statement, entries)
    if names is None:
        statement = statement.where(*_within(build, entries))
    elif earlier is None:
        statement = statement.where(*_within(build, entries), LISTING.key.in_(_keys(build, filters, names)))
    else:
        found = carriers(_named_by(build, filters, names))
        if names.n_features <= MAX_INDEXED_FEATURES:
            found = found.prefix_with("MATERIALIZED")
        statement = statement.where(*_within(build, entries), TURN == 1).add_cte(found)
        if earlier.tokens:
            statement = statement.where(LISTING.key.not_in(_keys(build, filters, earlier)))
    if beyond is not None:
        statement = statement.where(cursors.after(keys, beyond))
    rows = build.rows(statement.order_by(*(key.order() for key in keys)).limit(limit))
    return [ListedFeature(build.ref(row), list(row[len(REF_COLUMNS) :])) for row in rows]


def count_features(build: OpenBuild, filters: Filters, names: NameFilter) -> int:
    """How many features pass the filters and have one of the names."""
    entries = filtered_dictionaries(build, filters)
    if not entries or not names.tokens:
        return 0
    counted = sa.select(sa.func.count(sa.distinct(LISTING.key)))
    statement = counted.where(*conditions(filters), *_within(build, entries))
    if beyond_listing(filters):
        statement = with_feature(statement, entries).where(LISTING.key.in_(_keys(build, filters, names)))
    else:
        named = sa.select(schema.by_name).where(_named_by(build, filters, names))
        statement = statement.add_cte(named.cte(schema.listing.name))
    return int(build.rows(statement)[0][0])


def carriers(condition: sa.ColumnElement[bool]) -> sa.CTE:
    """A CTE named `listing`, which a statement over that table then reads instead: the rows of `by_name` that
    meet `condition`, a feature once for each token that names it, the commonest in `TURN` 1.

    Materialized, it keeps other conditions apart: DuckDB uses an index only for a condition on one column.
    """
    named = schema.by_name.c
    turn = sa.func.row_number().over(partition_by=named.key, order_by=named.token_place).label(TURN.name)
    return sa.select(schema.by_name, turn).where(condition).cte(schema.listing.name)


def beyond_listing(filters: Filters) -> bool:
    """Whether the filters or the order need columns of `feature` that `listing` does not have."""
    numbers = {condition.name for condition in filters.conditions}
    if filters.sort in NUMBERS:
        numbers.add(filters.sort)
    return filters.kind is not None or any(name not in LISTING for name in numbers)


def with_feature(statement: sa.Select[Any], entries: Sequence[DictionaryEntry]) -> sa.Select[Any]:
    """The statement over `listing` with the columns of `feature`."""
    same = sa.and_(FEATURE.dictionary_id == LISTING.dictionary_id, FEATURE.index == LISTING.index)
    ids = [entry.dictionary_id for entry in entries]
    return statement.join_from(schema.listing, schema.feature, same).where(FEATURE.dictionary_id.in_(ids))


def number(name: str) -> sa.ColumnElement[Any]:
    """The column of a number of the feature record."""
    return LISTING[name] if name in LISTING else FEATURE[name]


def _within(build: OpenBuild, entries: Sequence[DictionaryEntry]) -> list[sa.ColumnElement[bool]]:
    """No condition where it is all dictionaries: planning a list of thirty ids takes a database a
    millisecond.
    """
    return (
        []
        if len(entries) == len(build.dictionaries)
        else [LISTING.dictionary_id.in_([entry.dictionary_id for entry in entries])]
    )


def _named_by(build: OpenBuild, filters: Filters, names: NameFilter) -> sa.ColumnElement[bool]:
    """A condition on `by_name`. A relation that is filtered on is one to these names: a nearest anchor is
    none.
    """
    of_tokens = _of_tokens(build, names)
    return of_tokens if filters.relation is None else sa.and_(of_tokens, schema.by_name.c.by_relation == 1)


def _of_tokens(build: OpenBuild, names: NameFilter) -> sa.ColumnElement[bool]:
    """Token ids belong to a model: of several, each has its own condition."""
    named = schema.by_name.c
    own = {model: _among(named.token, ids) for model, ids in names.tokens.items()}
    if len(own) == 1 and len(build.models) == 1:
        return own.popitem()[1]
    of_model = {
        model: [entry.dictionary_id for entry in build.dictionaries.values() if entry.model == model]
        for model in own
    }
    return sa.or_(*(sa.and_(named.dictionary_id.in_(of_model[model]), among) for model, among in own.items()))


def _keys(build: OpenBuild, filters: Filters, names: NameFilter) -> sa.Select[Any]:
    """Keys of the features that any of the tokens names."""
    return sa.select(schema.by_name.c.key).where(_named_by(build, filters, names))


def listed(ids: Sequence[int]) -> list[int]:
    """For `IN`: DuckDB turns consecutive ids into a range, for which it uses no index. One id given twice
    keeps them a list.
    """
    return [*ids, ids[-1]]


def _among(column: sa.ColumnElement[int], ids: list[int]) -> sa.ColumnElement[bool]:
    if len(ids) <= MAX_LISTED_TOKENS:
        return column.in_(listed(ids))
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
    if filters.write_verdict is not None:
        wanted.append(LISTING.write_verdict == filters.write_verdict)
    if filters.min_density is not None:
        wanted.append(LISTING.density >= _real(filters.min_density))
    if filters.max_density is not None:
        wanted.append(LISTING.density <= _real(filters.max_density))
    if filters.holds is not None:
        held = LISTING.verdict.in_(HELD)
        wanted.append(held if filters.holds else sa.not_(held))
    if filters.kind is not None:
        wanted.append(FEATURE.anchor_kind == filters.kind)
    return wanted + [_meets(condition) for condition in filters.conditions]


def _meets(condition: Condition) -> sa.ColumnElement[bool]:
    """A number that was not measured meets no condition."""
    column = sa.cast(number(condition.name), sa.REAL)
    return column.op(condition.comparison, is_comparison=True)(_real(condition.value))


def _real(value: float) -> sa.ColumnElement[float]:
    """In 32 bits, as the columns are: a value shown as 0.7 is then at least 0.7. Rounded here, because
    PostgreSQL refuses what 32 bits cannot hold.
    """
    return sa.cast(float(np.float32(value)), sa.REAL)


UNIQUE = (SortKey(LISTING.dictionary_id), SortKey(LISTING.index))


def sorting(filters: Filters) -> list[SortKey]:
    """The columns of each sort; `match`, which only a search has, is the index's own order."""
    first: dict[str, list[sa.ColumnElement[Any]]] = {
        "match": [],
        "index": [LISTING.index],
        "share": [LISTING.share],
        "name": [LISTING.name_order],
    }
    columns = first[filters.sort] if filters.sort in first else [_ordered(filters.sort, filters.descending)]
    return [*(SortKey(column, descending=filters.descending) for column in columns), *UNIQUE]


def _ordered(name: str, descending: bool) -> sa.ColumnElement[Any]:
    """A number as 32 bits, last where it was not measured. `listing` has no such numbers."""
    if name in LISTING:
        return LISTING[name]
    last = -ABSENT if descending else ABSENT
    return sa.func.coalesce(sa.cast(FEATURE[name], sa.REAL), sa.cast(last, sa.REAL), type_=sa.REAL)
