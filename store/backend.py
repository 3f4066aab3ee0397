"""Where published builds are, as readers see it: a folder of DuckDB files, or a PostgreSQL database."""

from typing import Protocol

import sqlalchemy as sa

from store.errors import StoreError


class Backend(Protocol):
    def current(self) -> str:
        """The id of the build that is served now. Raises NoIndex, Unreachable."""

    def open(self, build: str) -> sa.Engine:
        """A read-only engine over one build, with limits on threads, memory and connections.
        Raises NoIndex.
        """

    def before(self, build: str) -> list[str]:
        """Other builds that can be opened, the last published first."""

    def name(self, build: str) -> str:
        """The build, as messages call it."""

    def failure(self, error: Exception, build: str) -> StoreError:
        """The error to raise for a database's error."""
