"""What can go wrong between the index and a person. Messages are one line, fit to be shown as they are."""

from lexiscope.errors import LexiscopeError

SERVED_UNCHANGED = "The index that is served is unchanged."


MAKE_ONE = "run `lexiscope demo`, or `lexiscope index RUN... --text FILE`"


class StoreError(LexiscopeError):
    """An index that cannot be written or read. `kept` says what is unchanged.

    The message is for the operator: it names files, hosts and what a driver reported. `public` is what a
    visitor of the server is told, and has none of these.
    """

    PUBLIC = "The index cannot be read now; the server's log says why."

    def __init__(self, message: str, *, kept: str = "", public: str = "") -> None:
        super().__init__(message)
        self.kept = kept
        self.public = public or self.PUBLIC


class NoIndex(StoreError):
    """There is no published index yet, or its file is gone."""

    PUBLIC = f"there is no index that can be read: {MAKE_ONE}"


class Damaged(NoIndex):
    """The file of a build is not as it was written."""


class UnreadablePointer(NoIndex):
    """CURRENT is there, but it cannot be read or names no build: what was served is served still."""


class Unreachable(StoreError):
    """A database server that cannot be reached, refuses, went away, or took too long."""

    PUBLIC = "the database of the index does not answer now: try again; the server's log says why"


class WrongVersion(StoreError):
    """The index was written by another version of the schema; there are no migrations."""

    PUBLIC = f"the index was written by another version of this program: rebuild it, {MAKE_ONE}"


class BuildLocked(StoreError):
    """Another process is writing a build of this index."""


class NotFound(StoreError):
    """A model, dictionary, feature or token that the index does not hold; the message says what
    it does hold.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message, public=message)


class BadCursor(StoreError):
    """A cursor that is broken, or belongs to another build or another search."""

    def __init__(self, message: str) -> None:
        super().__init__(message, public=message)


class Conflict(StoreError):
    """What is to be replaced is not what is there."""

    def __init__(self, message: str) -> None:
        super().__init__(message, public=message)


def reason(error: BaseException) -> str:
    """The first line of what a database or its driver reported, without SQLAlchemy's wrapping."""
    inner = getattr(error, "orig", None) or error
    return (str(inner).strip() or type(inner).__name__).splitlines()[0]
