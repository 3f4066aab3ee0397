"""What can go wrong between the index and a person. Messages are one line, fit to be shown as they are."""

from lexiscope.errors import LexiscopeError

SERVED_UNCHANGED = "The index that is served is unchanged."


class StoreError(LexiscopeError):
    """An index that cannot be written or read. `kept` says what is unchanged."""

    def __init__(self, message: str, *, kept: str = "") -> None:
        super().__init__(message)
        self.kept = kept


class NoIndex(StoreError):
    """There is no published index yet, or its file is gone."""


class Unreachable(StoreError):
    """A database server that cannot be reached, refuses, went away, or took too long."""


class WrongVersion(StoreError):
    """The index was written by another version of the schema; there are no migrations."""


class BuildLocked(StoreError):
    """Another process is writing a build of this index."""


class NotFound(StoreError):
    """A model, dictionary, feature or token that the index does not hold; the message says what
    it does hold.
    """


class BadCursor(StoreError):
    """A cursor that is broken, or belongs to another build or another search."""


def reason(error: BaseException) -> str:
    """The first line of what a database or its driver reported, without SQLAlchemy's wrapping."""
    inner = getattr(error, "orig", None) or error
    return (str(inner).strip() or type(inner).__name__).splitlines()[0]
