"""What can go wrong between the index and a person, each with its own type. Messages are one line, fit to
show as they are.
"""

from lexiscope.errors import LexiscopeError


class StoreError(LexiscopeError):
    """An index that cannot be written or read. `kept` says what was kept safe."""

    def __init__(self, message: str, *, kept: str = "") -> None:
        super().__init__(message)
        self.kept = kept


class NoIndex(StoreError):
    """There is no published index yet, or its file has gone."""


class Unreachable(StoreError):
    """A database server that cannot be reached, refuses, went away, or took too long."""


class WrongVersion(StoreError):
    """The index was written by another version of the schema; there are no migrations."""


class BuildLocked(StoreError):
    """Another builder holds the lock of this index folder."""


class NotFound(StoreError):
    """A model, dictionary, feature or token that the index does not hold; the message says what it does hold."""


class BadCursor(StoreError):
    """A cursor that is broken, or belongs to another build or another search."""
