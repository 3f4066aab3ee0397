"""What `/compare` says where nothing can be computed."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from lexiscope.settings import Settings
from server import compare, create_app
from server.dependencies import open_worker
from server.live import WorkerClient, WorkerRefused
from server.live.messages import Event, Job
from store import IndexedDictionary, Store
from tests.server.conftest import NO_WORKER
from tests.store import synthetic


def test_without_a_worker_figures_and_names_are_still_compared(browser: TestClient) -> None:
    record = browser.get("/compare.json").json()
    assert (record["left"]["source"], record["right"]["source"]) == ("1-plain", "1-vasae"), "of one layer"
    assert record["summary"] is None and record["matches"][0]["nearest"] is None
    assert any(match["named"] for match in record["matches"])
    html = browser.get("/compare").text
    assert 'role="note"' in html and "0-vasae" in html


def test_a_dictionary_of_the_model_that_was_chosen_before_counts_as_not_given(tmp_path: Path) -> None:
    one, other = (
        [synthetic.Dictionary(model, layer, recipe, d_sae=40) for layer, recipe in made]
        for model, made in (("one", [(0, "plain"), (1, "plain")]), ("other", [(1, "plain"), (2, "vasae")]))
    )
    synthetic.publish(tmp_path, [*one, *other])
    with TestClient(create_app(Settings(index=tmp_path))) as client:
        client.app.dependency_overrides[open_worker] = lambda: WorkerClient(NO_WORKER)  # type: ignore[attr-defined]
        sent = {"model": "other", "left": "0-plain", "right": "1-plain"}
        record = client.get("/compare.json", params=sent).json()
        assert (record["model"], record["left"]["source"]) == ("other", "2-vasae")
        assert record["right"]["source"] == "1-plain", "both models have it"
        missing = client.get("/compare.json", params=sent | {"left": "9-vasae"})
        assert missing.status_code == 404 and "no dictionary '9-vasae'" in missing.json()["detail"]


def test_the_page_does_not_wait_for_a_worker_that_takes_long(
    index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare, "WAIT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        app = create_app(Settings(index=index))
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        app.dependency_overrides[open_worker] = lambda: WorkerClient(address)
        html = TestClient(app, headers={"accept": "text/html"}).get("/compare").text
    assert compare.STARTING in html and "Figures" in html


@pytest.mark.parametrize("status", [422, 429, 503, 504])
def test_a_worker_that_refuses_leaves_the_figures_and_is_an_error_to_programs_where_it_has_no_time(
    index: Path, status: int
) -> None:
    class Refusing(WorkerClient):
        @asynccontextmanager
        async def submit(self, job: Job, *, client: str = "") -> AsyncIterator[AsyncIterator[Event]]:
            raise WorkerRefused(status, f"No time for a {type(job).__name__}.", retry_after="1")
            yield

    app = create_app(Settings(index=index))
    app.dependency_overrides[open_worker] = lambda: Refusing(NO_WORKER)
    client = TestClient(app)
    page = client.get("/compare?text=Once", headers={"accept": "text/html"})
    assert page.status_code == 200 and "Figures" in page.text
    assert "Directions were not compared. No time for a MatchJob." in page.text
    assert "The text was not read. No time for a ReadJob." in page.text
    twin = client.get("/compare.json?text=Once")
    assert twin.status_code == (status if status in (429, 504) else 200)


def test_dictionaries_without_weights_are_compared_by_name(index: Path) -> None:
    class Imported(Store):
        def dictionaries(self) -> list[IndexedDictionary]:
            return [place._replace(checkpoint_path="") for place in super().dictionaries()]

    settings = Settings(index=index)
    with TestClient(create_app(settings, store=Imported(settings))) as client:
        client.app.dependency_overrides[open_worker] = lambda: WorkerClient(NO_WORKER)  # type: ignore[attr-defined]
        answer = client.get("/compare.json?text=Once")
    assert answer.status_code == 200
    notes = answer.json()["notes"]
    assert [note.split(".")[0] for note in notes] == ["Directions were not compared", "The text was not read"]
    assert all("imported without its weights" in note for note in notes)
