"""The backups of docs/deploy.md come back: a folder copied while builds are published, and a dump."""

import shutil
import subprocess
from pathlib import Path

from lexiscope.settings import Settings
from store import Store
from tests.store import synthetic
from tests.store.postgres_server import Server, binaries

SMALL = [synthetic.Dictionary("m", 0, d_sae=30)]


def pages(settings: Settings) -> list[object]:
    store = Store(settings)
    found = [store.home(), store.feature("m", "0-vasae", 3)]
    store.close()
    return found


def test_a_folder_copied_while_another_build_is_published_is_whole(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    build = synthetic.publish(here, SMALL)
    before = pages(Settings(index=here))
    there.mkdir()
    shutil.copy(here / "CURRENT", there)
    synthetic.publish(here, SMALL)
    shutil.copy(here / f"{build}.duckdb", there)
    assert pages(Settings(index=there)) == before


def test_a_dump_of_the_database_is_restored(server: Server, tmp_path: Path) -> None:
    first, second = server.new_database(), server.new_database()
    settings = Settings(index=tmp_path, database_url=server.url(first))
    synthetic.publish(settings, SMALL)
    tools, dump = binaries(), tmp_path / "dump"
    assert tools is not None

    def address(name: str) -> str:
        return server.url(name).replace("postgresql+psycopg://", "postgresql://")

    subprocess.run([tools / "pg_dump", "-Fc", "-n", "lexiscope*", "-f", dump, address(first)], check=True)
    subprocess.run([tools / "pg_restore", "-d", address(second), dump], check=True)
    assert pages(Settings(index=tmp_path, database_url=server.url(second))) == pages(settings)
