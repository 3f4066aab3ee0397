"""Published builds in a PostgreSQL database, one schema each.

`lexiscope.current` is a table of one row with the build that is served and the one before. To publish a build
is to change that row.
"""

import zlib
from typing import Any

import psycopg
import sqlalchemy as sa

from lexiscope.settings import Settings
from store import build_files
from store.errors import MAKE_ONE, NoIndex, StoreError, Unreachable, reason

CONNECT_SECONDS = 5
POINTER = "SELECT build FROM lexiscope.current"
READERS = 0x6C657869
"""the class of the locks of readers"""
GONE = (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName, psycopg.errors.UndefinedColumn)


class BinaryCursor(psycopg.Cursor[tuple[object, ...]]):
    """Values come in PostgreSQL's binary form: faster for lists, and a 32-bit real keeps its exact value, on
    which cursors rely.
    """

    def execute(self, *args: object, **options: object) -> "BinaryCursor":
        return super().execute(*args, **{"binary": True, **options})  # type: ignore[call-overload]


def url(settings: Settings) -> sa.URL:
    """LEXISCOPE_DATABASE_URL, whose form the settings checked. Raises StoreError, without the password."""
    try:
        address = sa.make_url(settings.database_url)
    except (sa.exc.ArgumentError, ValueError):
        raise StoreError(
            "LEXISCOPE_DATABASE_URL is no PostgreSQL URL: write "
            "postgresql+psycopg://user:password@host:5432/database"
        ) from None
    return address.set(drivername="postgresql+psycopg")


def schema_of(build: str) -> str:
    return "lexiscope_" + build.lower().replace("-", "_")


def readers_lock(schema: str) -> tuple[int, int]:
    """The key of the advisory lock that every connection of a build's readers shares, and that whoever
    deletes its schema needs alone: what a reader has open stays until it has ended, as a file would.
    """
    return READERS, zlib.crc32(schema.encode()) - (1 << 31)


def where(address: sa.URL) -> str:
    """The database, as messages to the operator call it: without the password, which may also stand in the
    query.
    """
    shown = address.set(query={}).render_as_string(hide_password=True)
    return f"PostgreSQL at {shown.partition('://')[2]}"


class PostgresBackend:
    """A `Backend`. Raises StoreError where the URL is invalid."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._url = url(settings)
        self._pointer = self._engine("", connections=1)

    def _engine(self, options: str, *, connections: int) -> sa.Engine:
        limits = (
            f"-c statement_timeout={1000 * self._settings.reader_timeout} -c default_transaction_read_only=on"
        )
        limits += " -c max_parallel_workers_per_gather=0 -c jit=off"
        return sa.create_engine(
            self._url,
            isolation_level="AUTOCOMMIT",
            connect_args={
                "connect_timeout": CONNECT_SECONDS,
                "client_encoding": "utf8",  # also where the database has none (SQL_ASCII)
                "application_name": "lexiscope reader",
                "options": f"{limits} {options}",
                "cursor_factory": BinaryCursor,
            },
            pool_size=connections,
            max_overflow=0,
            pool_timeout=self._settings.reader_timeout,
            pool_reset_on_return=None,
        )

    def current(self) -> str:
        for last in (False, True):
            try:
                with self._pointer.connect() as connection:
                    build = connection.exec_driver_sql(POINTER).scalar()
                if build is None:
                    raise NoIndex(f"there is no index in {where(self._url)}: {MAKE_ONE}")
                return self._checked(str(build))
            except (sa.exc.DBAPIError, sa.exc.TimeoutError) as error:
                if isinstance(getattr(error, "orig", None), GONE):
                    raise NoIndex(f"there is no index in {where(self._url)}: {MAKE_ONE}") from error
                if last or not getattr(error, "connection_invalidated", False):
                    raise self.failure(error, "") from error
        raise AssertionError

    def _checked(self, build: str) -> str:
        if not build_files.BUILD_ID.fullmatch(build):
            raise NoIndex(f"lexiscope.current in {where(self._url)} does not name a build: {MAKE_ONE}")
        return build

    def open(self, build: str) -> sa.Engine:
        engine = self._engine(
            f"-c search_path={schema_of(build)}", connections=self._settings.reader_connections
        )

        @sa.event.listens_for(engine, "connect")
        def hold(connection: Any, _: object) -> None:
            connection.execute("SELECT pg_try_advisory_lock_shared(%s, %s)", readers_lock(schema_of(build)))

        return engine

    def before(self, build: str) -> list[str]:
        return []  # the server answers for its files

    def name(self, build: str) -> str:
        return f"build {build} in {where(self._url)}"

    def failure(self, error: Exception, build: str) -> StoreError:
        inner = getattr(error, "orig", None)
        if isinstance(inner, GONE):
            return NoIndex(f"{self.name(build)} is damaged or was deleted ({reason(error)}): {MAKE_ONE}")
        if isinstance(inner, psycopg.errors.QueryCanceled):
            seconds = self._settings.reader_timeout
            slow = f"took longer than {seconds} s to answer: narrow the request, or try again"
            return Unreachable(f"{where(self._url)} {slow}", public=f"the database of the index {slow}")
        if isinstance(error, sa.exc.TimeoutError):
            busy = f"all {self._settings.reader_connections} connections to"
            return Unreachable(
                f"{busy} {where(self._url)} are busy: try again",
                public=f"{busy} the database of the index are busy: try again",
            )
        return Unreachable(f"{where(self._url)} cannot be queried ({reason(error)})")
