"""The files of an index folder: one `<build id>.duckdb` for each build, `CURRENT` with the id of the build
that is served, and the lock of whoever writes a build.

A build is called `<build id>.building.duckdb` until it is complete. What still has `.building` in its name
when nobody holds the lock was left by a writer that was killed. Only `CURRENT` is ever replaced.
"""

import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from lexiscope import files
from store.errors import MAKE_ONE, SERVED_UNCHANGED, BuildLocked, UnreadablePointer

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
    """The id in `CURRENT`; None where there is no index yet. Raises UnreadablePointer where the file cannot
    be read, or holds anything else.
    """
    try:
        build = pointer(root).read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        build = ""
    except OSError as error:  # a folder, no permission, no descriptor left
        raise UnreadablePointer(f"{pointer(root)} cannot be read: {error.strerror}") from error
    if not BUILD_ID.fullmatch(build):
        raise UnreadablePointer(f"{pointer(root)} does not name a build: {MAKE_ONE}")
    return build


def install(root: Path, build: str) -> None:
    """Serve a closed, complete `.building` file. A crash at any line leaves the old index served."""
    files.fsync(building_path(root, build))
    os.rename(building_path(root, build), build_path(root, build))
    files.fsync(root)
    with files.replace_file(pointer(root)) as partial:
        partial.write_text(build + "\n", encoding="ascii")


def remove_leftovers(root: Path) -> None:
    """Delete what killed writers left. Only under the lock."""
    for path in root.glob("*.building*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def builds_before(root: Path, build: str) -> list[str]:
    """Ids of other published builds that are there, the last written first."""
    found = [path for path in root.glob("*.duckdb") if BUILD_ID.fullmatch(path.stem) and path.stem != build]
    return [path.stem for path in sorted(found, key=lambda path: path.stat().st_mtime_ns, reverse=True)]


def remove_builds(root: Path, *, but: set[str]) -> None:
    """Delete published builds other than those named. A reader that still has one open keeps its file until
    it closes it.
    """
    for path in root.glob("*.duckdb"):
        if BUILD_ID.fullmatch(path.stem) and path.stem not in but:
            path.unlink(missing_ok=True)


@contextmanager
def lock(root: Path) -> Iterator[None]:
    """Hold the lock for writing a build. Raises BuildLocked where another process holds it."""
    root.mkdir(parents=True, exist_ok=True)
    try:
        with files.lock(root / "LOCK"):
            yield
    except files.Locked as error:
        raise BuildLocked(
            f"another process ({error.owner or 'unknown'}) is writing the index in {root}: wait until it has "
            "finished",
            kept=SERVED_UNCHANGED,
        ) from None
