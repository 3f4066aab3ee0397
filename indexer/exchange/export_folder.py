"""An export's folder: filled under a hidden name, renamed when whole; one that exists is never touched."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lexiscope.errors import LexiscopeError

UNCHANGED = "Nothing was published; the index is as it was."


class ExchangeError(LexiscopeError):
    """An export that cannot be written, or files that cannot be imported. `kept` says what was kept safe."""

    def __init__(self, message: str, *, kept: str = "") -> None:
        super().__init__(message)
        self.kept = kept


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, which is at `path` when the block ends well and gone when it does not. Raises
    ExchangeError.
    """
    if path.exists() or path.is_symlink():
        raise ExchangeError(
            f"{path} exists already; an export never writes over anything. Name a folder that does not exist."
        )
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        partial.mkdir(parents=True)
        yield partial
        os.rename(partial, path)
    except OSError as error:
        raise ExchangeError(
            f"{path} could not be written: {error.strerror or error}.",
            kept="Nothing is left of it; the index is unchanged.",
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
