"""Files and folders that appear whole or not at all, locks that end with their process, and room on a disk.

Nothing here knows what is written. Errors of the disk stay `OSError`; the caller turns them into its own and
says what was kept.
"""

import fcntl
import os
import shlex
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout


class Locked(Exception):
    """Another process, or another part of this one, holds the lock."""

    def __init__(self, owner: str) -> None:
        super().__init__(f"held by process {owner or 'unknown'}")
        self.owner = owner
        """its process id; empty where the file does not say"""


@contextmanager
def lock(file: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock `file`, whose folder must exist. The file stays afterwards; the kernel releases the lock
    when the process dies.

    Raises Locked where another holds it; with `wait=True` waits until it is free.
    """
    held = FileLock(file, thread_local=False)
    try:
        held.acquire(blocking=wait)
    except Timeout:
        owner = file.read_text(encoding="ascii", errors="replace").strip()
        raise Locked(owner) from None
    try:
        file.write_text(str(os.getpid()), encoding="ascii")
        yield
    finally:
        held.release()


@contextmanager
def replace_file(file: Path) -> Iterator[Path]:
    """A path to write to, which becomes `file` in one step when the block ends well and is removed when it
    does not.

    The content is on the disk before the name changes, so a crash leaves the old file or the new one. The
    path is the same for every writer: two at once need a lock. What a killed writer left is written over.
    """
    partial = file.with_name(f".{file.name}.partial")
    try:
        yield partial
        fsync(partial)
        os.replace(partial, file)
        fsync(file.parent)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A hidden folder to fill, renamed to `path` when the block ends well and removed when it does not.

    `path` must not exist, or be an empty folder: the rename raises OSError otherwise, and what is there
    stays. The caller checks that first, to say so in its own words.
    """
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        yield partial
        for inside in partial.rglob("*"):
            if inside.is_file():
                fsync(inside)
        os.replace(partial, path)
        fsync(path.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def temporary_folder(prefix: str, where: Path | None = None) -> Iterator[Path]:
    """A new folder under `where` (TMPDIR unless given), for as long as the block. Folders of the same prefix
    whose processes were killed, and so deleted nothing, are deleted first: the kernel holds a lock on each
    that is in use.
    """
    parent = where or Path(tempfile.gettempdir())
    for left in parent.glob(f"{prefix}*"):
        with suppress(OSError), _locked(left):  # in use, or another user's
            shutil.rmtree(left, ignore_errors=True)
    # hidden, so that no other process takes it for a left one before it is locked
    hidden = Path(tempfile.mkdtemp(prefix=f".{prefix}", dir=parent))
    folder = parent / hidden.name[1:]
    try:
        with _locked(hidden, must=False):
            hidden.rename(folder)
            yield folder
    finally:
        for path in (hidden, folder):
            shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _locked(folder: Path, *, must: bool = True) -> Iterator[None]:
    """Hold the lock of a folder itself. Raises OSError where another holds it or, with `must`, where the file
    system has no locks.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if must:
                raise
        yield
    finally:
        os.close(descriptor)


def fsync(path: Path) -> None:
    """Force the content of a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def lack_of_space(folder: Path, needed: int) -> str:
    """What is wrong, in words without a full stop, where `needed` bytes do not fit under `folder` (which need
    not exist yet); empty where they do.
    """
    absolute = folder.absolute()
    free = shutil.disk_usage(next(part for part in (absolute, *absolute.parents) if part.exists())).free
    if needed <= free:
        return ""
    return f"{size_text(needed)} do not fit under {folder}, which has {size_text(free)} free"


def size_text(n_bytes: int) -> str:
    """An amount of memory in the unit that suits it: 3.2 GB, 40 MB, 812 bytes."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if n_bytes >= unit:
            return f"{n_bytes / unit:,.1f} {name}"
    return f"{n_bytes} bytes"


def portable_path(path: str) -> str:
    """A path without folders of this machine: an absolute one becomes relative to the working folder where it
    lies under it, and its last name elsewhere.
    """
    given, folder = Path(path), Path.cwd()
    if not given.is_absolute():
        return path
    return str(given.relative_to(folder)) if given.is_relative_to(folder) else given.name


def portable_command(arguments: Sequence[str]) -> str:
    """A command line to keep with what it made, each of its paths, also as `--option=PATH`, a
    `portable_path`.
    """

    def portable(argument: str) -> str:
        option, equals, value = argument.partition("=") if argument.startswith("-") else ("", "", argument)
        return f"{option}{equals}{portable_path(value)}"

    return shlex.join(map(portable, arguments))
