"""One small database of rows that outlive the builds: an SQLite file in the index folder, or tables of the
`lexiscope` schema in PostgreSQL. Made at the first write; without it, there are no rows.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa

from lexiscope.settings import Settings
from store.errors import StoreError, Unreachable, reason
from store.postgres import CONNECT_SECONDS, url, where

SCHEMA = "lexiscope"
WAIT_SECONDS = 5
"""for another process's write"""

MOST_ID = 2**31 - 1
"""what a column of ids can hold"""

Row = sa.Row[*tuple[Any, ...]]
"""a result row of any width"""
Result = TypeVar("Result")


class KeptDatabase:
    """`name` is the file's; `metadata` has tables in SCHEMA."""

    def __init__(self, settings: Settings, name: str, metadata: sa.MetaData, *, often: bool = False) -> None:
        """`often`: written at nearly every request, and a power cut may lose the last writes."""
        self._metadata = metadata
        self._made = False
        if settings.database_url:
            self._file: Path | None = None
            address = url(settings)
            self._place = where(address)
            self._engine = sa.create_engine(
                address,
                pool_size=2,
                max_overflow=6,
                connect_args={"connect_timeout": CONNECT_SECONDS, "client_encoding": "utf8"},
            )
            return
        self._file = settings.index / f"{name}.sqlite"
        self._place = str(self._file)
        engine = sa.create_engine(
            sa.URL.create("sqlite", database=str(self._file)), connect_args={"timeout": WAIT_SECONDS}
        )
        self._engine = engine.execution_options(schema_translate_map={SCHEMA: None})
        if often:
            sa.event.listen(engine, "connect", _write_ahead)

    def exists(self) -> bool:
        """False as long as nothing was written to the file; PostgreSQL has to be asked."""
        return self._made or self._file is None or self._file.exists()

    def read(self, statement: sa.Executable, **parameters: Any) -> Sequence[Row]:
        """The rows of a statement; none where the tables were not made yet. Raises StoreError."""
        if not self.exists():
            return []

        def rows(connection: sa.Connection) -> Sequence[Row]:
            return connection.execute(statement, parameters).all()

        try:
            return self._run(rows)
        except sa.exc.DataError:  # no row has a value that no column can hold
            return []
        except sa.exc.TimeoutError as error:
            raise self._failure(error) from error
        except sa.exc.DBAPIError as error:
            if self._has_tables():
                raise self._failure(error) from error
            return []

    def write(self, change: Callable[[sa.Connection], Result]) -> Result:
        """The result of one transaction, which is run again where another one made the same row meanwhile.
        Raises StoreError.
        """
        for last in (False, True):
            try:
                if not self._made:
                    self._make()
                return self._run(change)
            except (sa.exc.DBAPIError, sa.exc.TimeoutError, OSError) as error:
                if last or not isinstance(error, sa.exc.IntegrityError):
                    raise self._failure(error) from error
        raise AssertionError

    def close(self) -> None:
        self._engine.dispose()

    def _run(self, work: Callable[[sa.Connection], Result]) -> Result:
        with self._engine.begin() as connection:
            return work(connection)

    def _make(self) -> None:
        if self._file is not None:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._file.touch(mode=0o600)
        with self._engine.begin() as connection:
            if self._file is None:
                connection.execute(sa.schema.CreateSchema(SCHEMA, if_not_exists=True))
            self._metadata.create_all(connection)
        self._made = True

    def _has_tables(self) -> bool:
        with suppress(sa.exc.DBAPIError, sa.exc.TimeoutError):
            schema = None if self._file is not None else SCHEMA
            names = set(sa.inspect(self._engine).get_table_names(schema=schema))
            return {table.name for table in self._metadata.tables.values()} <= names
        return True

    def _failure(self, error: Exception) -> StoreError:
        return Unreachable(f"{self._place} cannot be read or written ({reason(error)})")


def _write_ahead(connection: Any, _: Any) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
