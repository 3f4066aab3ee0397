"""What `/compare` says where nothing can be computed."""

import socket
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from lexiscope.settings import Settings
from server import compare, create_app
from server.dependencies import open_worker
from server.live import WorkerClient


def test_without_a_worker_figures_and_names_are_still_compared(browser: TestClient) -> None:
    record = browser.get("/compare.json").json()
    assert (record["left"]["source"], record["right"]["source"]) == ("1-plain", "1-vasae"), "of one layer"
    assert record["summary"] is None and record["matches"][0]["nearest"] is None
    assert any(match["named"] for match in record["matches"])
    html = browser.get("/compare").text
    assert 'role="note"' in html and "0-vasae" in html


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
