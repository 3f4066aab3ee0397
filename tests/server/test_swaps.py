"""Builds that are published while pages are read: no request fails, and a damaged one is
not served.
"""

import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from lexiscope.records import FeatureRef
from lexiscope.settings import Settings
from server import create_app
from server.dependencies import open_worker
from server.live.messages import RawSimilar
from store import Store
from tests.store import synthetic

ONE = [synthetic.Dictionary("tiny", 0)]
SMALL = [synthetic.Dictionary("m", 0, d_sae=30)]
PAGES = ("/", "/m/0-vasae", "/m/0-vasae/3.json", "/search?q=word", "/api/v1/dictionaries")


def test_twenty_swaps_under_load_fail_no_request(tmp_path: Path) -> None:
    synthetic.publish(tmp_path, SMALL)
    app = create_app(Settings(index=tmp_path))
    statuses: list[int] = []
    done = threading.Event()

    def read(first: int) -> None:
        client, number = TestClient(app), first
        while not done.is_set():
            statuses.append(client.get(PAGES[number % len(PAGES)]).status_code)
            number += 1

    readers = [threading.Thread(target=read, args=(number,)) for number in range(3)]
    for reader in readers:
        reader.start()
    try:
        builds = [synthetic.publish(tmp_path, SMALL) for _ in range(20)]
    finally:
        done.set()
        for reader in readers:
            reader.join()
    assert set(statuses) == {200} and len(statuses) >= len(PAGES)
    assert TestClient(app).get("/index.json").json()["build"] == builds[-1]


def test_a_damaged_build_is_not_served_and_the_last_good_one_is(tmp_path: Path) -> None:
    good = synthetic.publish(tmp_path, SMALL)
    client = TestClient(create_app(Settings(index=tmp_path)))
    before = client.get("/m/0-vasae/3.json").json()
    damaged = tmp_path / f"{synthetic.publish(tmp_path, SMALL)}.duckdb"
    damaged.write_bytes(b"\0" * 8192 + damaged.read_bytes()[8192:])
    for _ in range(2):
        answer = client.get("/m/0-vasae/3.json")
        assert answer.status_code == 200 and answer.json() == before and before["build"] == good
    better = synthetic.publish(tmp_path, SMALL)
    assert client.get("/m/0-vasae/3.json").json()["build"] == better


def test_a_byte_that_changed_costs_one_page_and_then_the_last_good_build_is_served(tmp_path: Path) -> None:
    synthetic.publish(tmp_path, SMALL)
    client = TestClient(create_app(Settings(index=tmp_path)))
    good = client.get("/m/0-vasae/3.json").json()
    file = tmp_path / f"{synthetic.publish(tmp_path, SMALL)}.duckdb"
    content = file.read_bytes()
    for place in range(0, len(content) - 4096, 64 * 1024):  # not the first 12 kB, which opening reads
        content = content[: place + 20_000] + b"\x5a" + content[place + 20_001 :]
    file.unlink()
    file.write_bytes(content)
    statuses = [client.get(page).status_code for page in (*PAGES, "/m/0-vasae/3.json")]
    assert statuses[-1] == 200 and statuses.count(503) <= 1
    assert client.get("/m/0-vasae/3.json").json() == good
    with TestClient(create_app(Settings(index=tmp_path))) as fresh:
        for _ in range(2):
            fresh.get("/m/0-vasae/3.json")
        assert fresh.get("/m/0-vasae/3.json").json() == good


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_an_export_of_a_damaged_build_is_an_error_and_the_next_is_of_the_last_good_one(
    tmp_path: Path, form: str
) -> None:
    good = synthetic.publish(tmp_path, ONE)
    client = TestClient(create_app(Settings(index=tmp_path)))
    assert client.get("/index.json").json()["build"] == good
    table = synthetic.spoil(tmp_path / f"{synthetic.publish(tmp_path, ONE)}.duckdb")
    address = f"/api/v1/dictionaries/tiny/0-vasae/export?format={form}&table={table}"
    assert client.get(address).status_code == 503
    again = client.get(address)
    assert again.status_code == 200 and good in again.headers["etag"]


def test_a_pointer_that_cannot_be_read_leaves_what_is_served(tmp_path: Path) -> None:
    build = synthetic.publish(tmp_path, SMALL)
    client = TestClient(create_app(Settings(index=tmp_path)))
    before = client.get("/m/0-vasae/3.json").json()
    (tmp_path / "CURRENT").write_bytes(b"\xff")
    assert client.get("/m/0-vasae/3.json").json() == before
    (tmp_path / "CURRENT").unlink()
    (tmp_path / "CURRENT").mkdir()
    assert client.get("/m/0-vasae/3.json").json() == before and before["build"] == build
    (tmp_path / "CURRENT").rmdir()
    assert client.get("/m/0-vasae/3.json").status_code == 503, "an index that was taken away is gone"


@pytest.mark.parametrize("address", ["/api/v1/features?id=m/0-vasae/3", "/lists.json?feature=m/0-vasae/3"])
def test_features_by_their_ids_are_those_of_the_build_that_the_answer_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    build = synthetic.publish(tmp_path, SMALL)
    client = TestClient(create_app(Settings(index=tmp_path)))
    before = client.get(address).json()
    look_up = Store.feature_refs

    def late(store: Store, ids: Sequence[str]) -> list[FeatureRef]:
        synthetic.publish(tmp_path, [SMALL[0]._replace(d_sae=60)])
        return look_up(store, ids)

    with TestClient(create_app(Settings(index=tmp_path))) as fresh:
        monkeypatch.setattr(Store, "feature_refs", late)
        answer = fresh.get(address)
        assert answer.json() == before and before["build"] == build
        monkeypatch.undo()
        assert fresh.get(address).json() != before


def test_an_answer_of_the_worker_belongs_to_the_build_that_was_served_when_it_was_asked(
    tmp_path: Path,
) -> None:
    before = synthetic.publish(tmp_path, SMALL)
    larger = [SMALL[0]._replace(d_sae=60)]

    class Publishing:
        @asynccontextmanager
        async def submit(self, *_: object, **__: object) -> AsyncIterator[AsyncIterator[RawSimilar]]:
            async def events() -> AsyncIterator[RawSimilar]:
                synthetic.publish(tmp_path, larger)
                yield RawSimilar(indices=[1], cosines=[0.5])

            yield events()

    app = create_app(Settings(index=tmp_path))
    app.dependency_overrides[open_worker] = Publishing
    client = TestClient(app)
    named = client.get("/m/0-vasae/1.json").json()["feature"]
    answer = client.get("/api/v1/features/m/0-vasae/3/similar")
    assert answer.status_code == 200 and answer.json()["build"] == before
    assert [(one["id"], one["density"]) for one in answer.json()["features"]] == [
        (named["id"], named["density"])
    ]
    assert before in answer.headers["etag"]
    again = client.get(
        "/api/v1/features/m/0-vasae/3/similar", headers={"if-none-match": answer.headers["etag"]}
    )
    assert again.status_code == 200 and again.json()["build"] != before
