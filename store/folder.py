"""Published builds in a folder, one DuckDB file each: the default."""

import sqlalchemy as sa

from lexiscope.settings import Settings
from store import builds, duck
from store.errors import NoIndex, StoreError


class Folder:
    """A `Source`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._root = settings.index

    def current(self) -> str:
        build = builds.current_build(self._root)
        if build is None:
            raise NoIndex(f"there is no index in {self._root}: {builds.MAKE_ONE}")
        return build

    def open(self, build: str) -> sa.Engine:
        path = builds.build_path(self._root, build)
        if not path.is_file():
            raise NoIndex(
                f"{builds.pointer(self._root)} names build {build}, whose file has gone: {builds.MAKE_ONE}"
            )
        return duck.reader(path, threads=self._settings.reader_threads, memory=self._settings.reader_memory)

    def name(self, build: str) -> str:
        return str(builds.build_path(self._root, build))

    def failure(self, error: Exception, build: str) -> StoreError:
        return NoIndex(f"{self.name(build)} cannot be read ({duck.complaint(error)}): {builds.MAKE_ONE}")
