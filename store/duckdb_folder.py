"""Published builds in a folder, one DuckDB file each: the default."""

import sqlalchemy as sa

from lexiscope.settings import Settings
from store import build_files, duckdb_connection
from store.errors import MAKE_ONE, Damaged, NoIndex, StoreError, reason

DAMAGE = (
    "corrupt",
    "not a valid duckdb",
    "could not read enough bytes",
    "serialization error",
    "internal error",
)
"""words of DuckDB's errors that do not pass"""


def is_damage(error: Exception) -> bool:
    """Whether DuckDB says that a file is not as it was written."""
    said = str(error).lower()
    return any(words in said for words in DAMAGE)


class FolderBackend:
    """A `Backend`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._root = settings.index

    def current(self) -> str:
        build = build_files.current_build(self._root)
        if build is None:
            raise NoIndex(f"there is no index in {self._root}: {MAKE_ONE}")
        return build

    def open(self, build: str) -> sa.Engine:
        path = build_files.build_path(self._root, build)
        if not path.is_file():
            raise NoIndex(
                f"{build_files.pointer(self._root)} names build {build}, whose file is gone: {MAKE_ONE}"
            )
        return duckdb_connection.reader(
            path, threads=self._settings.reader_threads, memory=self._settings.reader_memory
        )

    def name(self, build: str) -> str:
        return str(build_files.build_path(self._root, build))

    def before(self, build: str) -> list[str]:
        return build_files.builds_before(self._root, build)

    def failure(self, error: Exception, build: str) -> StoreError:
        kind = Damaged if is_damage(error) else NoIndex
        return kind(f"{self.name(build)} cannot be read ({reason(error)}): {MAKE_ONE}")
