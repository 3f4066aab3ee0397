"""What visitors are told of an index that cannot be read: nothing of passwords, users, hosts or folders."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from lexiscope.settings import Settings
from server import create_app
from tests.store import synthetic

HIDDEN = ("s3cret", "alice", "127.0.0.9", "cellar")
ADDRESSES = ("/", "/index.json", "/search?q=a", "/tiny/1-vasae/3.json", "/api/v1/dictionaries")


def told(settings: Settings) -> str:
    client = TestClient(create_app(settings))
    answers = [client.get(address) for address in ADDRESSES]
    assert {answer.status_code for answer in answers} == {503}
    return "\n".join(answer.text + str(answer.headers) for answer in answers)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://alice:s3cret@127.0.0.9:1/cellar",
        "postgresql+psycopg://127.0.0.9:1/cellar?user=alice&password=s3cret",
    ],
)
def test_a_database_that_cannot_be_reached_is_not_described(
    url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    said = told(Settings(index=tmp_path, database_url=url))
    assert not [secret for secret in HIDDEN if secret in said]
    assert "s3cret" not in caplog.text and "127.0.0.9" in caplog.text, "the operator learns where it is"


def none(root: Path) -> None:
    pass


def unreadable(root: Path) -> None:
    (root / "CURRENT").mkdir()


def garbled(root: Path) -> None:
    (root / "CURRENT").write_bytes(b"\xff")


def gone(root: Path) -> None:
    (root / "CURRENT").write_text("20260101T000000-abcdef\n")


def damaged(root: Path) -> None:
    build = synthetic.publish(root, [synthetic.Dictionary("tiny", 0)])
    file = root / f"{build}.duckdb"
    file.write_bytes(b"\0" * 4096 + file.read_bytes()[4096:])


def of_another_version(root: Path) -> None:
    import duckdb

    build = synthetic.publish(root, [synthetic.Dictionary("tiny", 0)])
    with duckdb.connect(str(root / f"{build}.duckdb")) as connection:
        connection.execute("UPDATE meta SET schema_version = 1")


@pytest.mark.parametrize("spoil", [none, unreadable, garbled, gone, damaged, of_another_version])
def test_an_index_that_cannot_be_read_is_a_503_without_its_folder(
    spoil: Callable[[Path], None], tmp_path: Path
) -> None:
    root = tmp_path / "cellar"
    root.mkdir()
    spoil(root)
    said = told(Settings(index=root))
    assert str(tmp_path) not in said and "cellar" not in said


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_pointer_without_permission_is_a_503(tmp_path: Path) -> None:
    (tmp_path / "CURRENT").write_text("20260101T000000-abcdef\n")
    (tmp_path / "CURRENT").chmod(0)
    told(Settings(index=tmp_path))
