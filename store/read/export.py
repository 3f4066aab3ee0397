"""A published build, held open to be exported: the rows of its tables as Arrow, in pieces that fit in memory.

Every piece is one bounded query over a range of ids, so that order and memory are the same on DuckDB and on
PostgreSQL, however large the index. `arrow_schema` is the only place that maps SQL types to Arrow types.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import sqlalchemy as sa

from store import schema
from store.errors import NotFound
from store.read.open_build import DictionaryEntry, OpenBuild
from store.schema import SCHEMA_VERSION

TABLES = ("token", "dictionary", "layer_summary", "passage", "feature", "context", "written", "token_row")
"""Each table after those that its rows refer to."""
PIECE_IDS = {
    "feature": 4096,
    "context": 1024,
    "passage": 4096,
    "token": 32_768,
    "written": 4096,
    "token_row": 4096,
}
"""Ids in the range of one query: of features, of features (some fifty contexts each), of passages, of tokens.
"""


def arrow_schema(name: str) -> pa.Schema:
    """A table's columns as Arrow fields, each with its comment as metadata."""
    table = schema.metadata.tables[name]
    fields = [
        pa.field(
            column.name,
            _arrow_type(column.type),
            nullable=bool(column.nullable),
            metadata={"comment": column.comment or ""},
        )
        for column in table.columns
    ]
    return pa.schema(
        fields, metadata={"lexiscope.table": name, "lexiscope.schema_version": str(SCHEMA_VERSION)}
    )


def _arrow_type(kind: sa.types.TypeEngine[Any]) -> pa.DataType:
    match kind:
        case sa.ARRAY():
            return pa.list_(_arrow_type(kind.item_type))
        case sa.BigInteger():
            return pa.int64()
        case sa.Boolean():
            return pa.bool_()
        case sa.REAL():
            return pa.float32()
        case sa.Text():
            return pa.string()
        case sa.Integer():
            return pa.int32()
    raise TypeError(f"no Arrow type for {kind!r}")


class BuildSnapshot:
    """The contents of one build, or of the part that `part` chose. Valid only inside `Store.snapshot()`."""

    def __init__(self, build: OpenBuild, piece_ids: Mapping[str, int] = PIECE_IDS) -> None:
        self._build, self._piece_ids = build, piece_ids
        self.id = build.id
        self.dictionaries: list[DictionaryEntry] = sorted(
            build.dictionaries.values(), key=lambda entry: entry.dictionary_id
        )
        self._whole = True

    def part(self, *, model: str | None, source: str | None) -> "BuildSnapshot":
        """The dictionaries of a model, or of one source in every model. Raises NotFound."""
        chosen = [
            entry
            for entry in self.dictionaries
            if (model is None or entry.model == model) and (source is None or entry.source == source)
        ]
        if not chosen:
            if model is not None:
                self._build.of_model(model)
            there = ", ".join(entry.id for entry in self.dictionaries[:12]) or "no dictionary"
            raise NotFound(f"the index holds no {model or '*'}/{source or '*'}: it holds {there}")
        part = BuildSnapshot(self._build, self._piece_ids)
        part._whole = len(chosen) == len(self.dictionaries)
        part.dictionaries = chosen
        return part

    def count(self, name: str) -> int:
        """The number of rows that `rows` gives."""
        table = schema.metadata.tables[name]
        if table is schema.passage and not self._whole:
            return len(self._passages)
        where: list[sa.ColumnElement[bool]] = []
        if table is schema.token:
            where.append(table.c.model.in_(self._models))
        elif table is not schema.passage:
            where.append(table.c.dictionary_id.in_([entry.dictionary_id for entry in self.dictionaries]))
        return int(self._build.rows(sa.select(sa.func.count()).select_from(table).where(*where))[0][0])

    def rows(self, name: str) -> Iterator[pa.Table]:
        """A table's rows in the schema's order, in pieces. Links to dictionaries outside the
        part are NULL.
        """
        if name == "passage":
            yield from self._passage_rows()
        elif name == "token":
            for model in self._models:
                yield from self._ranged(schema.token, schema.token.c.token_id, schema.token.c.model == model)
        else:
            for entry in self.dictionaries:
                yield from self.of_dictionary(name, entry)

    def of_dictionary(
        self, name: str, entry: DictionaryEntry, *, features: range | None = None
    ) -> Iterator[pa.Table]:
        """The rows of one dictionary in `dictionary`, `layer_summary`, `feature`, `context`, `written` or
        `token_row`; of features and contexts, those of `features` only, where given.
        """
        table = schema.metadata.tables[name]
        own = table.c.dictionary_id == entry.dictionary_id
        if table is schema.feature:
            yield from self._ranged(table, table.c.index, own, within=features)
        elif table is schema.context:
            places = {kind: place for place, kind in enumerate(schema.CONTEXT_KINDS)}
            kind = sa.case(places, value=table.c.kind, else_=len(places))
            order = (table.c.feature, kind, table.c.rank, table.c.passage, table.c.position)
            yield from self._ranged(table, table.c.feature, own, order=order, within=features)
        elif table is schema.written:
            by_kind = (table.c.token_id, table.c.kind, table.c.index)
            yield from self._ranged(table, table.c.token_id, own, order=by_kind)
        elif table is schema.token_row:
            yield from self._ranged(table, table.c.token_id, own)
        else:
            found = self._arrow(table, sa.select(table).where(own))
            yield self._unlinked(found) if table is schema.dictionary else found

    def readable(self, name: str, entry: DictionaryEntry, rows: pa.Table) -> pa.Table:
        """Rows of `feature` or `context` of one dictionary, with the feature's id first and, of features, its
        name and words as they are shown.
        """
        own = rows.column("index" if name == "feature" else "feature").to_pylist()
        columns = {"id": pa.array([f"{entry.id}/{index}" for index in own], pa.string())}
        if name == "feature":
            shown = self._build.vocabulary(entry.model).get
            words = [[shown(word).shown for word in some] for some in rows.column("word_tokens").to_pylist()]
            names = [shown(token).shown for token in rows.column("name_token").to_pylist()]
            columns |= {"name": pa.array(names, pa.string()), "words": pa.array(words, pa.list_(pa.string()))}
        for place, (column, values) in enumerate(columns.items()):
            rows = rows.add_column(place, column, values)
        return rows

    def passages(self, ids: Sequence[int]) -> dict[int, list[int]]:
        """Token ids of each passage."""
        column, tokens = schema.passage.c, {}
        for start in range(0, len(ids), self._piece_ids["passage"]):
            some = [int(number) for number in ids[start : start + self._piece_ids["passage"]]]
            rows = self._build.rows(
                sa.select(column.passage_id, column.tokens).where(column.passage_id.in_(some))
            )
            tokens.update({row[0]: list(row[1]) for row in rows})
        return tokens

    @property
    def _models(self) -> list[str]:
        return sorted({entry.model for entry in self.dictionaries})

    @property
    def _passages(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Ids of the passages that the part's contexts are in, ascending."""
        context, ids = schema.context.c, np.zeros(0, np.int64)
        for entry in self.dictionaries:
            pointed = (
                sa.select(context.passage).where(context.dictionary_id == entry.dictionary_id).distinct()
            )
            ids = np.union1d(ids, [row[0] for row in self._build.rows(pointed)]).astype(np.int64)
        return ids

    def _passage_rows(self) -> Iterator[pa.Table]:
        table, column = schema.passage, schema.passage.c.passage_id
        if self._whole:
            yield from self._ranged(table, column)
            return
        ids = self._passages
        for start in range(0, len(ids), self._piece_ids["passage"]):
            some = ids[start : start + self._piece_ids["passage"]].tolist()
            yield self._arrow(table, sa.select(table).where(column.in_(some)).order_by(column))

    def _ranged(
        self,
        table: sa.Table,
        key: sa.Column[Any],
        *where: sa.ColumnElement[bool],
        order: Sequence[sa.ColumnElement[Any]] = (),
        within: range | None = None,
    ) -> Iterator[pa.Table]:
        if within is None:
            low, high = self._build.rows(sa.select(sa.func.min(key), sa.func.max(key)).where(*where))[0]
            if low is None:
                return
            within = range(low, high + 1)
        for start in range(within.start, within.stop, self._piece_ids[table.name]):
            stop = min(start + self._piece_ids[table.name], within.stop)
            statement = sa.select(table).where(*where, key >= start, key < stop).order_by(*(order or (key,)))
            found = self._arrow(table, statement)
            if len(found):
                yield found

    def _unlinked(self, rows: pa.Table) -> pa.Table:
        here = {entry.dictionary_id for entry in self.dictionaries}
        for link in ("previous_dictionary", "next_dictionary"):
            place = rows.column_names.index(link)
            kept = [number if number in here else None for number in rows.column(link).to_pylist()]
            rows = rows.set_column(place, rows.schema.field(link), pa.array(kept, pa.int32()))
        return rows

    def _arrow(self, table: sa.Table, statement: sa.Select[Any]) -> pa.Table:
        wanted = arrow_schema(table.name)
        if self._build.engine.dialect.name == "duckdb":
            with warnings.catch_warnings():  # of an extra copy, which is of one piece
                warnings.simplefilter("ignore", UserWarning)
                return self._build.run(statement, lambda result: result.cursor.to_arrow_table()).cast(wanted)
        columns = list(zip(*self._build.rows(statement), strict=True)) or [()] * len(wanted)
        return pa.table(
            [pa.array(column, field.type) for column, field in zip(columns, wanted, strict=True)],
            schema=wanted,
        )


def columns_document() -> str:
    """docs/columns.md: every table and column with its type and the comment of the schema."""
    lines = [
        "# Columns of the index",
        "",
        f"Schema version {SCHEMA_VERSION}: the store's tables, and the Parquet files that `lexiscope "
        "export parquet` writes, one a table.",
        "Made from the comments of `store/schema.py` by `lexiscope export columns`; a test keeps the two "
        "equal.",
    ]
    for name in TABLES:
        table = schema.metadata.tables[name]
        lines += ["", f"## {name}.parquet", ""]
        if table.comment:
            lines += [table.comment, ""]
        lines += ["| column | type | null | meaning |", "|---|---|---|---|"]
        for field in arrow_schema(name):
            comment = (field.metadata or {}).get(b"comment", b"").decode().replace("|", "\\|")
            kind = str(field.type).replace("list<item: ", "list of ").replace(">", "")
            lines.append(f"| `{field.name}` | {kind} | {'yes' if field.nullable else ''} | {comment} |")
    return "\n".join(lines) + "\n"
