"""Where published builds lie, as readers see it: a folder of DuckDB files, or a PostgreSQL database."""

from typing import Protocol

import sqlalchemy as sa

from store.errors import StoreError


class Backend(Protocol):
    def current(self) -> str:
        """The id of the build that serves now. Raises NoIndex, Unreachable."""

    def open(self, build: str) -> sa.Engine:
        """A read-only engine over one build, its threads, memory and connections capped. Raises NoIndex."""

    def name(self, build: str) -> str:
        """The build, in words for a person."""

    def failure(self, error: Exception, build: str) -> StoreError:
        """What a database's error means."""
