"""Files that are whole or not there, and a disk that is known to hold them before time is spent."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole(file: Path) -> Iterator[Path]:
    """A path to write to that becomes `file` when the block ends well, and is removed otherwise."""
    partial = file.with_name(f"{file.name}.partial")
    try:
        yield partial
        os.replace(partial, file)
    finally:
        partial.unlink(missing_ok=True)


def lacks_room(where: Path, needed: int) -> str:
    """What is wrong, in words, where `needed` bytes do not fit under `where`; empty where they do."""
    free = shutil.disk_usage(where).free
    return (
        f"{needed / 1e9:,.1f} GB do not fit under {where}, which has {free / 1e9:,.1f} GB free"
        if needed > free
        else ""
    )
