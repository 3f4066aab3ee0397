"""The folder of an export, which appears whole or not at all; one that exists is never touched."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from indexer.exchange.errors import ExchangeError
from lexiscope import files


@contextmanager
def export_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, which is at `path` when the block ends well and gone when it does not. Raises
    ExchangeError.
    """
    if path.exists() or path.is_symlink():
        raise ExchangeError(
            f"{path} exists already; an export never overwrites anything. Name a folder that does not exist."
        )
    try:
        with files.new_folder(path) as partial:
            yield partial
    except OSError as error:
        raise ExchangeError(
            f"{path} could not be written: {error.strerror or error}.",
            kept="Nothing is left of it; the index is unchanged.",
        ) from error
