"""API keys: who may use the server, and how much. A key is kept as its SHA-256; it is 32 random bytes, so
that a slow hash would protect nothing more.

Use is counted in windows of a minute and of a day (UTC), for all processes of a server together.
"""

import hashlib
import re
import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from lexiscope.errors import LexiscopeError
from lexiscope.settings import Settings
from store.kept.database import SCHEMA, KeptDatabase

metadata = sa.MetaData(schema=SCHEMA)
api_key = sa.Table(
    "api_key",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("sha256", sa.Text, nullable=False, unique=True),
    sa.Column("created", sa.Text, nullable=False),
    sa.Column("per_minute", sa.Integer, nullable=False),
    sa.Column("per_day", sa.Integer, nullable=False),
)
key_use = sa.Table(
    "key_use",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("seconds", sa.Integer, primary_key=True),
    sa.Column("window", sa.BigInteger, primary_key=True),
    sa.Column("requests", sa.Integer, nullable=False),
)
MINUTE, DAY = 60, 86_400
KNOWN_SECONDS = 2.0
"""how long a process goes on with the keys it has read"""
NAME = re.compile(r"[\w.@ -]{1,80}")


class KeyExists(LexiscopeError):
    """A name that has a key already."""


class KeyRefused(LexiscopeError):
    """No key, or an unknown one."""


class LimitReached(LexiscopeError):
    """A key that has used up its minute or its day."""

    def __init__(self, message: str, *, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class KeyInfo(NamedTuple):
    """A key as `lexiscope keys list` shows it; 0 stands for no limit."""

    name: str
    created: str
    per_minute: int
    per_day: int
    used_today: int


class Granted(NamedTuple):
    """A request that may be answered."""

    name: str
    limit: int
    """requests a minute; 0: any number"""
    remaining: int
    """of this minute"""
    reset: int
    """seconds until the next minute's window"""


class _Key(NamedTuple):
    name: str
    per_minute: int
    per_day: int


class ApiKeys:
    """The keys of a server. Methods may raise Unreachable. `clock` gives seconds since 1970."""

    def __init__(self, settings: Settings, *, clock: Callable[[], float] = time.time) -> None:
        self._database = KeptDatabase(settings, "keys", metadata, often=True)
        self._clock = clock
        self._known: dict[str, _Key] = {}
        self._read_at = -KNOWN_SECONDS

    def close(self) -> None:
        self._database.close()

    def add(self, name: str, *, per_minute: int = 0, per_day: int = 0) -> str:
        """A new key, which is shown only now. Raises KeyExists."""
        if not NAME.fullmatch(name) or name != name.strip():
            raise KeyRefused(
                f"{name!r} cannot name a key: up to 80 letters, digits, spaces and . _ @ - are allowed"
            )
        key = f"lx_{secrets.token_urlsafe(32)}"
        row = {
            "name": name,
            "sha256": _hash(key),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "per_minute": per_minute,
            "per_day": per_day,
        }

        def insert(connection: sa.Connection) -> bool:
            if connection.execute(sa.select(api_key.c.name).where(api_key.c.name == name)).first():
                return False
            connection.execute(api_key.insert().values(row))
            return True

        if not self._database.write(insert):
            raise KeyExists(f"there is a key named {name!r} already: remove it first, or take another name")
        self._read_at = -KNOWN_SECONDS
        return key

    def list(self) -> list[KeyInfo]:
        today = int(self._clock()) // DAY
        used = key_use.c.requests
        joined = api_key.outerjoin(
            key_use,
            sa.and_(key_use.c.name == api_key.c.name, key_use.c.seconds == DAY, key_use.c.window == today),
        )
        columns = (api_key.c.name, api_key.c.created, api_key.c.per_minute, api_key.c.per_day)
        rows = self._database.read(sa.select(*columns, used).select_from(joined).order_by(api_key.c.name))
        return [KeyInfo(row[0], row[1], row[2], row[3], row[4] or 0) for row in rows]

    def remove(self, name: str) -> bool:
        """Whether there was such a key."""
        if not self._database.exists():
            return False

        def delete(connection: sa.Connection) -> int:
            connection.execute(key_use.delete().where(key_use.c.name == name))
            return connection.execute(api_key.delete().where(api_key.c.name == name)).rowcount

        self._read_at = -KNOWN_SECONDS
        return bool(self._database.write(delete))

    def on(self) -> bool:
        """Whether there is any key: then requests need one."""
        return bool(self._keys())

    def on_now(self) -> bool | None:
        """The same without a look at the database; None where that is needed."""
        return None if time.monotonic() - self._read_at >= KNOWN_SECONDS else bool(self._known)

    def grant(self, key: str) -> Granted:
        """Count a request of a key. Raises KeyRefused and LimitReached."""
        found = self._keys().get(_hash(key)) if key else None
        if found is None:
            raise KeyRefused("this key is not known" if key else "a key is needed")
        now = int(self._clock())
        used = self._database.write(lambda connection: _count(connection, found, now))
        for seconds, limit, per in ((DAY, found.per_day, "day"), (MINUTE, found.per_minute, "minute")):
            if limit and used[seconds] > limit:
                left = seconds - now % seconds
                raise LimitReached(
                    f"the key {found.name!r} has {limit:,} requests a {per}, which are used up: try again in "
                    f"{left:,} seconds",
                    retry_after=left,
                )
        remaining = max(0, found.per_minute - used[MINUTE]) if found.per_minute else 0
        return Granted(found.name, found.per_minute, remaining, MINUTE - now % MINUTE)

    def _keys(self) -> dict[str, _Key]:
        """{SHA-256: key}, at most KNOWN_SECONDS old."""
        if time.monotonic() - self._read_at >= KNOWN_SECONDS:
            columns = (api_key.c.sha256, api_key.c.name, api_key.c.per_minute, api_key.c.per_day)
            rows = self._database.read(sa.select(*columns))
            self._known = {row[0]: _Key(*row[1:]) for row in rows}
            self._read_at = time.monotonic()
        return self._known


def _count(connection: sa.Connection, key: _Key, now: int) -> dict[int, int]:
    """{seconds of a window: requests in it, with this one}; windows that are over are forgotten."""
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    used: dict[int, int] = {}
    for seconds in (MINUTE, DAY):
        row = {"name": key.name, "seconds": seconds, "window": now // seconds, "requests": 1}
        statement = insert(key_use).values(row)
        counted = statement.on_conflict_do_update(
            index_elements=["name", "seconds", "window"], set_={"requests": key_use.c.requests + 1}
        ).returning(key_use.c.requests)
        used[seconds] = connection.execute(counted).scalar_one()
        if used[seconds] == 1:
            over = (key_use.c.seconds == seconds, key_use.c.window < now // seconds)
            connection.execute(key_use.delete().where(*over))
    return used


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode(errors="replace")).hexdigest()
