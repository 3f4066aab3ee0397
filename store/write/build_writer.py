"""Writes one build of the index: Arrow tables in, one published build out (a DuckDB file, or a schema in
PostgreSQL), or nothing.

    with BuildWriter(settings) as writer:
        writer.keep_others(replacing=[("gpt2-small", "6-vasae")])
        writer.add("dictionary", table)  # ids from writer.next_dictionary_id, passages from next_passage_id
        ...
        writer.publish()

Rows of `feature` and `context` must be sorted by (dictionary, feature), those of `passage` by id; `add` keeps
their order.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from lexiscope.settings import Settings
from store import build_files, duckdb_connection
from store.duckdb_folder import is_damage
from store.errors import StoreError, UnreadablePointer, reason
from store.read.vocabulary import storable
from store.schema import DUCKDB_INDEXES, KEY_SQL, LOADED, SCHEMA_VERSION, metadata
from store.write import derived_tables
from store.write.postgres_writer import PostgresWriter

OLD_SERVED = "The old index is still served."


class KeptDictionaries(NamedTuple):
    """What `keep_others` copied."""

    sources: list[tuple[str, str]]
    """(model, source) of each dictionary copied"""
    note: str = ""
    """why nothing could be copied, or what of, where that is not the served build"""


class BuildWriter:
    """A build under construction; it is deleted at the end of the block unless `publish` was called. Raises
    BuildLocked, StoreError.
    """

    def __init__(self, where: Settings | Path) -> None:
        self._settings = where if isinstance(where, Settings) and where.database_url else None
        self._postgres: PostgresWriter | None = None
        self.root = where.index if isinstance(where, Settings) else where
        self.build = build_files.new_build_id()
        self.next_dictionary_id = 0
        self.next_passage_id = 0
        self._kept_models: set[str] = set()
        self._kept_on_server: list[int] = []
        self._kept_build: str | None = None
        self._exit = ExitStack()

    def __enter__(self) -> Self:
        with _disk_errors(), ExitStack() as opening:
            opening.enter_context(build_files.lock(self.root))
            build_files.remove_leftovers(self.root)
            opening.callback(build_files.remove_leftovers, self.root)
            if self._settings is not None:
                self._postgres = PostgresWriter(self._settings, self.build)
                opening.callback(self._postgres.close)
            self._connect()
            opening.callback(self._disconnect)
            self._create()
            self._exit = opening.pop_all()
        return self

    def _connect(self) -> None:
        self._connection = duckdb_connection.writer(build_files.building_path(self.root, self.build))

    def _disconnect(self) -> None:
        self._connection.close()

    def _create(self) -> None:
        for table in metadata.sorted_tables:
            self._connection.execute(duckdb_connection.create_table(table))
        self._sql("ALTER TABLE feature ADD COLUMN key BIGINT")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exit.close()

    def keep_others(self, *, replacing: Iterable[tuple[str, str]]) -> KeptDictionaries:
        """Copy all dictionaries of the served build but those (model, source), with their passages and their
        models' tokens. Where its file is damaged, or CURRENT does not name it, those of the last published
        build that can be read.

        Ids stay as they are, and `next_dictionary_id` and `next_passage_id` move past them. Must be called
        before the first `add`. Links from kept to replaced dictionaries become NULL, because the feature
        indices behind them would be wrong.
        """
        with _disk_errors():
            if self._postgres is not None:
                return self._keep_on_server(self._postgres, set(replacing))
            return self._from_old(lambda: self._copy(set(replacing)))

    def note_on_others(self) -> str:
        """The note that `keep_others` would give, as far as a short look at the index says."""
        with _disk_errors():
            if self._postgres is not None:
                return _server_note(self._postgres)
            return self._from_old(self._look).note

    def _from_old(self, work: Callable[[], KeptDictionaries]) -> KeptDictionaries:
        """The result of `work`, which reads the attached database `old`, on the first build that is whole."""
        said: list[str] = []
        for build in self._published(said):
            path = build_files.build_path(self.root, build)
            if not path.exists():
                said.append(f"{path} is gone")
                continue
            try:
                self._sql(f"ATTACH {_quoted(str(path))} AS old (READ_ONLY)")
                found = work()
                self._sql("DETACH old")
            except duckdb.Error as error:
                if not is_damage(error):
                    raise
                said.append(f"{path} is damaged ({reason(error)})")
                self._begin_again()
                continue
            self._kept_build = build
            if said:
                said.append(f"what is kept is of {path}")
            return found._replace(note=found.note or "; ".join(said))
        return KeptDictionaries([], "; ".join([*said, "nothing could be kept"]) if said else "")

    def _published(self, said: list[str]) -> Iterator[str]:
        """The served build, then those before it, the last published first."""
        try:
            served = build_files.current_build(self.root)
        except UnreadablePointer:
            said.append(f"{build_files.pointer(self.root)} names no build that can be read")
            served = ""
        if served:
            yield served
        if served is not None:
            yield from build_files.builds_before(self.root, served)

    def _begin_again(self) -> None:
        """Without what was copied."""
        self._disconnect()
        build_files.remove_leftovers(self.root)
        self._kept_models = set()
        self._connect()
        self._create()

    def _look(self) -> KeptDictionaries:
        """All dictionaries of `old`; none, with a note, where another version of the schema wrote them."""
        [(version,)] = self._sql("SELECT schema_version FROM old.meta")
        if version != SCHEMA_VERSION:
            return KeptDictionaries([], _too_old(version))
        return KeptDictionaries(self._sql("SELECT model, source FROM old.dictionary ORDER BY dictionary_id"))

    def _copy(self, replacing: set[tuple[str, str]]) -> KeptDictionaries:
        if (found := self._look()).note:
            return found
        rows = self._sql("SELECT dictionary_id, model, source FROM old.dictionary ORDER BY dictionary_id")
        kept = [row for row in rows if (row[1], row[2]) not in replacing]
        if not kept:
            return KeptDictionaries([])
        ids = ", ".join(str(row[0]) for row in kept)
        self._kept_models = {row[1] for row in kept}
        for name in ("dictionary", "layer_summary", "feature", "context", "written", "token_row"):
            self._sql(f"INSERT INTO {name} BY NAME SELECT * FROM old.{name} WHERE dictionary_id IN ({ids})")
        self._unlink(ids)
        self._sql(
            "INSERT INTO passage BY NAME SELECT * FROM old.passage"
            " WHERE passage_id IN (SELECT passage FROM context)"
        )
        self._sql(
            "INSERT INTO token BY NAME SELECT * FROM old.token WHERE model IN (SELECT model FROM dictionary)"
        )
        [(self.next_dictionary_id,)] = self._sql("SELECT max(dictionary_id) + 1 FROM dictionary")
        [(self.next_passage_id,)] = self._sql("SELECT coalesce(max(passage_id) + 1, 0) FROM passage")
        return KeptDictionaries([(row[1], row[2]) for row in kept])

    def _unlink(self, ids: str) -> None:
        for link in ("previous_dictionary", "next_dictionary"):
            self._sql(f"UPDATE dictionary SET {link} = NULL WHERE {link} NOT IN ({ids})")

    def _keep_on_server(self, server: PostgresWriter, replacing: set[tuple[str, str]]) -> KeptDictionaries:
        """The small tables are fetched, so that the whole build can be checked; features, contexts and
        passages are copied on the server.
        """
        if server.previous is None:
            return KeptDictionaries([])
        if note := _server_note(server):
            return KeptDictionaries([], note)
        for name in ("dictionary", "layer_summary", "token"):
            self._insert(name, server.previous_rows(name))
        named = (
            ", ".join(f"({_quoted(model)}, {_quoted(source)})" for model, source in sorted(replacing))
            or "(NULL, NULL)"
        )
        self._sql(f"DELETE FROM dictionary WHERE (model, source) IN ({named})")
        rows = self._sql("SELECT dictionary_id, model, source FROM dictionary ORDER BY dictionary_id")
        self._kept_on_server = [row[0] for row in rows]
        self._kept_models = {row[1] for row in rows}
        ids = ", ".join(str(row[0]) for row in rows) or "NULL"
        self._sql(
            "DELETE FROM layer_summary WHERE dictionary_id NOT IN (SELECT dictionary_id FROM dictionary)"
        )
        self._sql("DELETE FROM token WHERE model NOT IN (SELECT model FROM dictionary)")
        self._unlink(ids)
        if rows:
            self.next_dictionary_id, self.next_passage_id = rows[-1][0] + 1, server.highest_passage() + 1
        return KeptDictionaries([(row[1], row[2]) for row in rows])

    def add(self, table: str, rows: pa.Table) -> None:
        """Append `rows` to one table of `store.schema`: exactly its columns, in any order. A table may be
        added to in several calls. Tokens of a model whose vocabulary was kept replace the kept ones. Raises
        StoreError, and then none was added.
        """
        if table not in LOADED:
            raise StoreError(
                f"there is no table {table!r} to add rows to: there are {', '.join(sorted(LOADED))}"
            )
        wanted, given = {column.name for column in LOADED[table].columns}, set(rows.column_names)
        if wanted != given or len(rows.column_names) != len(given):
            missing, unknown = ", ".join(sorted(wanted - given)), ", ".join(sorted(given - wanted))
            raise StoreError(
                f"rows for {table!r} do not have its columns; missing: {missing or 'none'}; unknown: "
                f"{unknown or 'none'}"
            )
        if rows.num_rows == 0:
            return
        with _disk_errors():
            if table == "token":
                self._forget_kept_tokens({str(model) for model in rows.column("model").unique().to_pylist()})
            self._insert(table, _storable(rows))

    def _insert(self, table: str, rows: pa.Table) -> None:
        self._connection.register("added_rows", rows)
        try:
            key = f", {KEY_SQL} AS key" if table == "feature" else ""
            self._sql(f"INSERT INTO {table} BY NAME SELECT *{key} FROM added_rows")
        except (duckdb.ConversionException, duckdb.BinderException, duckdb.ConstraintException) as error:
            raise StoreError(f"rows for {table!r} do not fit it: {reason(error)}", kept=OLD_SERVED) from error
        finally:
            self._connection.unregister("added_rows")

    def _forget_kept_tokens(self, models: set[str]) -> None:
        for model in models & self._kept_models:
            self._connection.execute("DELETE FROM token WHERE model = ?", [model])
        self._kept_models -= models

    def publish(self) -> str:
        """Check that the build is complete, serve it, and delete builds older than the previous one. Returns
        its id.
        """
        with _disk_errors():
            self._check()
            now = datetime.now(UTC).isoformat(timespec="seconds")
            self._connection.execute("INSERT INTO meta VALUES (?, ?, ?)", [SCHEMA_VERSION, self.build, now])
            if self._postgres is not None:
                self._postgres.install(self._connection, kept=self._kept_on_server)
                return self.build
            for statement in derived_tables.statements():
                self._sql(duckdb_connection.compiled(statement))
            for table, columns in DUCKDB_INDEXES:
                self._sql(f"CREATE INDEX {table}_{columns[0]} ON {table} ({', '.join(columns)})")
            self._sql("CHECKPOINT")
            self._connection.close()
            previous = self._kept_build
            if previous is None:
                with suppress(UnreadablePointer):  # it is replaced
                    previous = build_files.current_build(self.root)
            build_files.install(self.root, self.build)
            build_files.remove_builds(self.root, but={self.build, previous or self.build})
        return self.build

    def _check(self) -> None:
        twice = self._sql("SELECT model, source FROM dictionary GROUP BY ALL HAVING count(*) > 1")
        same_id = self._sql("SELECT dictionary_id FROM dictionary GROUP BY ALL HAVING count(*) > 1")
        unsummed = self._sql(
            "SELECT model, source FROM dictionary"
            " WHERE dictionary_id NOT IN (SELECT dictionary_id FROM layer_summary)"
        )
        without_tokens = self._sql(
            "SELECT DISTINCT model FROM dictionary WHERE model NOT IN (SELECT model FROM token)"
        )
        lost = self._sql(
            "SELECT DISTINCT passage FROM context"
            " WHERE passage NOT IN (SELECT passage_id FROM passage) LIMIT 3"
        )
        for rows, problem in (
            (twice, "dictionaries are in the build twice (name them in keep_others(replacing=...))"),
            (same_id, "dictionary ids are in the build twice (count from next_dictionary_id)"),
            (unsummed, "dictionaries have no row in layer_summary"),
            (without_tokens, "models have no tokens"),
            (lost, "contexts refer to passages that are not in the build"),
        ):
            if rows:
                named = ", ".join("/".join(str(value) for value in row) for row in rows[:3])
                raise StoreError(f"the build is not complete: {problem}: {named}", kept=OLD_SERVED)

    def _sql(self, statement: str) -> list[Any]:
        return self._connection.execute(statement).fetchall()


@contextmanager
def _disk_errors() -> Iterator[None]:
    """A full disk, a folder that cannot be written or too little memory becomes a StoreError."""
    try:
        yield
    except (OSError, duckdb.Error) as error:
        raise StoreError(f"the index could not be written: {reason(error)}", kept=OLD_SERVED) from error


def _storable(rows: pa.Table) -> pa.Table:
    """The rows without NUL in text, which PostgreSQL cannot hold."""
    for place, field in enumerate(rows.schema):
        if pa.types.is_string(field.type) or pa.types.is_large_string(field.type):
            column = rows.column(place)
            if pc.any(pc.match_substring(column, "\0")).as_py():
                rows = rows.set_column(place, field, pc.replace_substring(column, "\0", storable("\0")))
    return rows


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _server_note(server: PostgresWriter) -> str:
    """Why nothing of the served build can be kept; empty where it can, or where there is none."""
    if server.previous is None:
        return ""
    version = server.previous_version()
    if version is None:
        return f"build {server.previous} is gone from the database: nothing of it could be kept"
    return "" if version == SCHEMA_VERSION else _too_old(version)


def _too_old(version: int) -> str:
    return (
        f"the old index has schema version {version}, not {SCHEMA_VERSION}: its dictionaries must be indexed "
        "again"
    )
