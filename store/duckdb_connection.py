"""DuckDB and duckdb-engine as this project uses them; workarounds for the pair are here only.

duckdb-engine 0.17 is older than DuckDB 2.0. Connecting through SQLAlchemy, compiling Core statements, DDL and
ARRAY columns (they come back as lists) work and are used. Reflection (`checkfirst`, `has_table`) and row-wise
`executemany` inserts are avoided. DuckDB requires all connections of one process to one file to have the same
configuration, so a file is opened either by `writer` or by `reader`, never by both.
"""

import atexit
import warnings
from pathlib import Path
from typing import Any

import duckdb
import duckdb_engine
import sqlalchemy as sa
import sqlalchemy.dialects
from duckdb_engine import Dialect, DuckDBEngineWarning
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateTable

WRITER_MEMORY = "2GB"
WIDE_STATEMENT = 400
"""Characters from which a statement is prepared once a connection."""
Config = dict[str, str | bool | int | float | list[str]]
OFFLINE: Config = {"autoinstall_known_extensions": False}

# In a process that also loads torch, duckdb-engine's module is not cleared at exit, and DuckDB prints a long
# report of leaks.
atexit.register(vars(duckdb_engine).clear)


def writer(path: Path) -> duckdb.DuckDBPyConnection:
    """A new file at `path`, for writing one build; what does not fit in memory is written to a file beside
    it.

    Run-length encoding is off: to read one row, a reader would count through the runs from the beginning of
    the block, for every column.
    """
    config: Config = {"memory_limit": WRITER_MEMORY, "temp_directory": f"{path}.tmp", **OFFLINE}
    connection = duckdb.connect(str(path), config=config)
    connection.execute("SET disabled_compression_methods = 'rle'")
    return connection


class ListArray(postgresql.ARRAY[Any]):
    """DuckDB gives lists: nothing has to be made of them, item by item."""

    def result_processor(self, dialect: Any, coltype: Any) -> Any:
        return None


class ReaderDialect(Dialect):
    """duckdb-engine for a file that never changes: statements are compiled once, and none opens a
    transaction.

    duckdb-engine compiles a statement each time (3 ms for the widest). The Core statements of this package
    bind every value that varies, so that they can be cached.
    """

    supports_statement_cache = True
    colspecs = {**Dialect.colspecs, sa.ARRAY: ListArray, postgresql.ARRAY: ListArray}  # noqa: RUF012

    def do_execute(self, cursor: Any, statement: str, parameters: Any, context: Any = None) -> None:
        """Planning a statement of seventy columns takes longer than running it, so such a statement is
        prepared once a connection.
        """
        if (
            len(statement) < WIDE_STATEMENT
            or " IN (" in statement
            or not all(type(value) is int for value in parameters)
        ):
            cursor.execute(statement, parameters)
            return
        prepared: dict[str, str] = cursor.connection.__dict__.setdefault("prepared", {})
        if statement not in prepared:
            name = f"wide_{len(prepared)}"
            cursor.execute(f"PREPARE {name} AS {statement}", None)
            prepared[statement] = name
        cursor.execute(f"EXECUTE {prepared[statement]}({', '.join(map(str, parameters))})", None)

    def do_begin(self, connection: Any) -> None:
        pass

    def do_rollback(self, dbapi_connection: Any) -> None:
        pass

    def do_commit(self, dbapi_connection: Any) -> None:
        pass


sa.dialects.registry.register("duckdb.reader", __name__, ReaderDialect.__name__)


def reader(path: Path, *, threads: int, memory: str) -> sa.Engine:
    """A read-only engine over a published file. The pool may hold more connections than the server has
    threads (40), so that no request waits for one.
    """
    config: Config = {"threads": threads, "memory_limit": memory, **OFFLINE}
    warnings.filterwarnings("ignore", category=DuckDBEngineWarning)
    return sa.create_engine(
        sa.URL.create("duckdb+reader", database=str(path)),
        connect_args={"read_only": True, "config": config},
        poolclass=sa.QueuePool,
        pool_size=8,
        max_overflow=40,
    )


def compiled(statement: sa.Insert) -> str:
    """A Core statement as text, with its values in it."""
    return str(statement.compile(dialect=Dialect(), compile_kwargs={"literal_binds": True}))


def create_table(table: sa.Table) -> str:
    """The DDL of one table in DuckDB's dialect."""
    return str(CreateTable(table).compile(dialect=Dialect()))
