"""The files of an index folder: one `<build id>.duckdb` a build, `CURRENT` that names the one that serves,
and the builders' `LOCK`.

A build under construction is called `<build id>.building.duckdb` until it is whole; whatever still has
`.building` in its name when nobody holds the lock was left by a builder that was killed. Only `CURRENT` is
ever replaced, by a rename.
"""

import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from store.errors import BuildLocked, NoIndex

MAKE_ONE = "run `lexiscope demo`, or `lexiscope index RUN... --text FILE`"
BUILD_ID = re.compile(r"[0-9]{8}T[0-9]{6}-[0-9a-f]{6}")


def new_build_id() -> str:
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"


def build_path(root: Path, build: str) -> Path:
    return root / f"{build}.duckdb"


def building_path(root: Path, build: str) -> Path:
    return root / f"{build}.building.duckdb"


def pointer(root: Path) -> Path:
    return root / "CURRENT"


def current_build(root: Path) -> str | None:
    """The id that `CURRENT` holds; None when there is no index yet. NoIndex when the file holds anything
    else.
    """
    try:
        build = pointer(root).read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        build = ""
    if not BUILD_ID.fullmatch(build):
        raise NoIndex(f"{pointer(root)} does not name a build: {MAKE_ONE}")
    return build


def fsync(path: Path) -> None:
    """Force a file's, or a folder's, content to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def install(root: Path, build: str) -> None:
    """Make a closed, complete `.building` file the one that serves. A crash at any line leaves the old index
    serving.
    """
    fsync(building_path(root, build))
    os.rename(building_path(root, build), build_path(root, build))
    fsync(root)
    fresh = root / f"CURRENT.{build}.building"
    fresh.write_text(build + "\n", encoding="ascii")
    fsync(fresh)
    os.replace(fresh, pointer(root))
    fsync(root)


def remove_leftovers(root: Path) -> None:
    """Delete what killed builders left. Only under the lock."""
    for path in root.glob("*.building*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def remove_builds(root: Path, *, but: set[str]) -> None:
    """Delete published builds other than those named. A reader that still has one open keeps its file until
    it closes it.
    """
    for path in root.glob("*.duckdb"):
        if BUILD_ID.fullmatch(path.stem) and path.stem not in but:
            path.unlink(missing_ok=True)


@contextmanager
def lock(root: Path) -> Iterator[None]:
    """Hold the builders' lock; the kernel lets go of it when the process dies. Raises BuildLocked."""
    root.mkdir(parents=True, exist_ok=True)
    with open(root / "LOCK", "a+", encoding="ascii") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            owner = file.read().strip() or "unknown"
            raise BuildLocked(
                f"another builder (process {owner}) is writing the index in {root}: wait until it has finished",
                kept="The index that serves is untouched.",
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
