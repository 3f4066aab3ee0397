"""Loads a staged build into PostgreSQL: into a schema of its own by COPY, which one transaction then makes
the served build.

The advisory lock for writing belongs to this connection. If the server goes away, an unfinished build is
lost: the old build is served until `lexiscope.current` changes, and the next writer drops schemas that it
does not name.
"""

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO, cast

import duckdb
import psycopg
import pyarrow as pa
import sqlalchemy as sa
from psycopg import sql
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateTable, SetColumnComment, SetTableComment

from lexiscope.settings import Settings
from store import postgres, schema
from store.errors import SERVED_UNCHANGED, BuildLocked, StoreError, reason
from store.write import derived_tables

LOCK = 0x1E7150
COPY_BYTES = 1 << 20
NULL = r"\N"
DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]


class PostgresWriter:
    """The server's side of a `BuildWriter`. Raises StoreError, BuildLocked."""

    def __init__(self, settings: Settings, build: str) -> None:
        self._url = postgres.url(settings)
        self._build = build
        self._schema = postgres.schema_of(build)
        self._loading = f"{self._schema}_building"
        self._connection = self._connect()
        self.previous = self._begin()

    def close(self) -> None:
        self._connection.close()

    def _connect(self) -> psycopg.Connection[tuple[Any, ...]]:
        plain = self._url.set(drivername="postgresql").render_as_string(hide_password=False)
        with self.errors():
            return psycopg.connect(
                plain,
                autocommit=True,
                connect_timeout=postgres.CONNECT_SECONDS,
                client_encoding="utf8",
                application_name=f"lexiscope writer {os.getpid()}",
            )

    def _begin(self) -> str | None:
        """Take the lock and drop what killed writers left. Returns the build that is served."""
        with self.errors():
            if self._rows(sql.SQL("SELECT pg_try_advisory_lock({})").format(LOCK)) != [(True,)]:
                holder = self._rows(
                    sql.SQL(
                        "SELECT application_name FROM pg_stat_activity JOIN pg_locks USING (pid)"
                        " WHERE locktype = 'advisory' AND objid = {}"
                    ).format(LOCK)
                )
                raise BuildLocked(
                    f"another process ({', '.join(str(row[0]) for row in holder) or 'unknown'}) is writing "
                    f"the index in {postgres.where(self._url)}: wait until it has finished",
                    kept=SERVED_UNCHANGED,
                )
            self._run("CREATE SCHEMA IF NOT EXISTS lexiscope")
            self._run(
                "CREATE TABLE IF NOT EXISTS lexiscope.current"
                " (only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row), build text NOT NULL,"
                " previous text)"
            )
            self._remove(but=self._named())
            rows = self._rows(sql.SQL("SELECT build FROM lexiscope.current"))
            return str(rows[0][0]) if rows else None

    def _named(self) -> set[str]:
        return {
            postgres.schema_of(str(name))
            for row in self._rows(sql.SQL("SELECT build, previous FROM lexiscope.current"))
            for name in row
            if name
        }

    def _remove(self, *, but: set[str]) -> None:
        """Drop every build's schema other than those named, and those that readers have open."""
        pattern = r"^lexiscope_\d{8}t\d{6}_[0-9a-f]{6}(_building)?$"
        for (name,) in self._rows(
            sql.SQL("SELECT nspname FROM pg_namespace WHERE nspname ~ {}").format(pattern)
        ):
            key = sql.SQL(", ").join(map(sql.Literal, postgres.readers_lock(str(name))))
            if name in but or self._rows(sql.SQL("SELECT pg_try_advisory_lock({})").format(key)) != [(True,)]:
                continue
            self._run(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(str(name))))
            self._rows(sql.SQL("SELECT pg_advisory_unlock({})").format(key))

    def previous_version(self) -> int | None:
        """The schema version of the served build; None where it is gone."""
        assert self.previous is not None
        try:
            return cast(int, self._rows(self._from_previous("SELECT schema_version FROM {}", "meta"))[0][0])
        except postgres.GONE:
            return None

    def previous_rows(self, name: str) -> pa.Table:
        """A small table of the served build."""
        columns = [column.name for column in schema.metadata.tables[name].columns]
        with self.errors():
            rows = self._rows(self._from_previous("SELECT * FROM {}", name))
        return pa.table({column: [row[place] for row in rows] for place, column in enumerate(columns)})

    def highest_passage(self) -> int:
        """−1 where there is none."""
        with self.errors():
            statement = self._from_previous("SELECT coalesce(max(passage_id), -1) FROM {}", "passage")
            return cast(int, self._rows(statement)[0][0])

    def _from_previous(self, statement: str, name: str) -> sql.Composed:
        assert self.previous is not None
        return sql.SQL(cast(Any, statement)).format(sql.Identifier(postgres.schema_of(self.previous), name))

    def install(self, staged: duckdb.DuckDBPyConnection, *, kept: Sequence[int]) -> None:
        """Load the staged rows and those of the kept dictionaries, make the indexes, and serve the build."""
        with self.errors():
            self._relock()
            with self._connection.transaction():
                self._create()
                for name in ("meta", *schema.LOADED):
                    self._copy(staged, name)
                if kept:
                    self._copy_kept(kept)
                for statement in derived_tables.statements():
                    self._run(str(statement.compile(dialect=DIALECT, compile_kwargs={"literal_binds": True})))
            self._run(sql.SQL("SET search_path = {}").format(sql.Identifier(self._loading)))
            for name, columns in schema.POSTGRES_INDEXES:
                keys = sql.SQL(", ").join(sql.Identifier(column) for column in columns)
                self._run(sql.SQL("CREATE INDEX ON {} ({})").format(sql.Identifier(name), keys))
            for name in schema.metadata.tables:
                self._run(sql.SQL("VACUUM (ANALYZE) {}").format(sql.Identifier(name)))
            self._serve()

    def _relock(self) -> None:
        """A long build may outlive its connection: take the lock again, unless another build was published
        meanwhile.
        """
        try:
            self._run("SELECT 1")
        except psycopg.OperationalError:
            before = self.previous
            self._connection = self._connect()
            self.previous = self._begin()
            if self.previous != before:
                raise StoreError(
                    "another build was published while the connection to PostgreSQL was lost: index again",
                    kept="That build is served.",
                ) from None

    def _create(self) -> None:
        self._run(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(self._loading)))
        self._run(sql.SQL("SET LOCAL search_path = {}").format(sql.Identifier(self._loading)))
        for table in schema.metadata.tables.values():
            self._run(str(CreateTable(table).compile(dialect=DIALECT)))
            if table is schema.feature:
                self._run(
                    f"ALTER TABLE feature ADD COLUMN key bigint GENERATED ALWAYS AS ({schema.KEY_SQL}) STORED"
                )
            self._run(str(SetTableComment(table).compile(dialect=DIALECT)))
            for column in table.columns:
                self._run(str(SetColumnComment(column).compile(dialect=DIALECT)))

    def _copy(self, staged: duckdb.DuckDBPyConnection, name: str) -> None:
        """Stream a staged table: DuckDB writes CSV into a pipe, COPY reads it."""
        table = schema.metadata.tables[name]
        columns = ", ".join(_as_text(column) for column in table.columns)
        named = sql.SQL(", ").join(sql.Identifier(column.name) for column in table.columns)
        into = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT csv, NULL {}, FREEZE)").format(
            sql.Identifier(name), named, NULL
        )
        with (
            _piped(staged, f"SELECT {columns} FROM {name}") as blocks,
            self._connection.cursor() as cursor,
            cursor.copy(into) as copy,
        ):
            while block := blocks.read(COPY_BYTES):
                copy.write(block)

    def _copy_kept(self, kept: Sequence[int]) -> None:
        assert self.previous is not None
        ids = sql.SQL(", ").join(kept)
        old = postgres.schema_of(self.previous)
        own = "dictionary_id IN ({ids}) ORDER BY dictionary_id, {key}"
        passages = (
            "passage_id IN (SELECT passage FROM context) AND passage_id NOT IN (SELECT passage_id FROM "
            "passage) ORDER BY passage_id"
        )
        keys = {"feature": "index", "context": "feature", "written": "token_id", "token_row": "token_id"}
        for name, condition in (*((name, own) for name in keys), ("passage", passages)):
            columns = sql.SQL(", ").join(
                sql.Identifier(column.name) for column in schema.metadata.tables[name].columns
            )
            key = sql.Identifier(keys.get(name, "passage_id"))
            self._run(
                sql.SQL(
                    cast(Any, "INSERT INTO {new} ({columns}) SELECT {columns} FROM {old} WHERE " + condition)
                ).format(
                    new=sql.Identifier(name), old=sql.Identifier(old, name), columns=columns, ids=ids, key=key
                )
            )

    def _serve(self) -> None:
        """From the end of this transaction on, the new build is served."""
        with self._connection.transaction():
            self._run(
                sql.SQL("ALTER SCHEMA {} RENAME TO {}").format(
                    sql.Identifier(self._loading), sql.Identifier(self._schema)
                )
            )
            self._run(
                sql.SQL(
                    "INSERT INTO lexiscope.current (build) VALUES ({build})"
                    " ON CONFLICT (only_row) DO UPDATE SET previous = current.build, build = {build}"
                ).format(build=self._build)
            )
        self._remove(but=self._named())

    def _rows(self, statement: sql.Composable) -> list[tuple[Any, ...]]:
        return self._connection.execute(cast(Any, statement)).fetchall()

    def _run(self, statement: sql.Composable | str) -> None:
        self._connection.execute(cast(Any, statement))

    @contextmanager
    def errors(self) -> Iterator[None]:
        """An error of the server becomes a StoreError; nothing was published then."""
        try:
            yield
        except psycopg.Error as error:
            raise StoreError(
                f"the index could not be written to {postgres.where(self._url)} ({reason(error)})",
                kept="Nothing was published; the old index is still served.",
            ) from error


def _as_text(column: sa.Column[Any]) -> str:
    """The SQL for a column as text; a list as PostgreSQL writes it: `{1,2}`."""
    quoted = f'"{column.name}"'
    return f"'{{' || array_to_string({quoted}, ',') || '}}'" if isinstance(column.type, sa.ARRAY) else quoted


@contextmanager
def _piped(staged: duckdb.DuckDBPyConnection, query: str) -> Iterator[BinaryIO]:
    """The rows of a query as CSV, read while DuckDB writes them, so that memory holds one pipe buffer."""
    failed: list[BaseException] = []
    reading, writing = os.pipe()

    def write() -> None:
        try:
            with staged.cursor() as own:
                own.execute(
                    f"COPY ({query}) TO '/dev/fd/{writing}' (FORMAT csv, HEADER false, NULLSTR '{NULL}')"
                )
        except duckdb.Error as error:
            failed.append(error)
        finally:
            os.close(writing)

    writer = threading.Thread(target=write)
    with open(reading, "rb") as blocks:
        writer.start()
        yield blocks
    writer.join()
    if failed:
        raise failed[0]
