"""What can go wrong when an index is exported or files are imported."""

from lexiscope.errors import LexiscopeError


class ExchangeError(LexiscopeError):
    """An export that cannot be written, or files that cannot be imported. `kept` says what is unchanged."""

    def __init__(self, message: str, *, kept: str = "") -> None:
        super().__init__(message)
        self.kept = kept


class ImportRefused(ExchangeError):
    """Files that cannot be imported."""

    def __init__(self, message: str) -> None:
        super().__init__(message, kept="Nothing was published; the index is unchanged.")
