"""What `/compare` says where nothing can be computed."""

import socket
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from lexiscope.settings import Settings
from server import compare, create_app
from server.dependencies import open_worker
from server.live import WorkerClient
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
