"""Health, readiness, metrics and log lines, as an operator's machines read them."""

import errno
import json
import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fastapi import Request
from fastapi.testclient import TestClient

from lexiscope.settings import Settings
from server import create_app, dependencies
from server.answers import Answers
from server.logs import JsonLines
from store import Store
from tests.store import synthetic


def test_a_server_without_an_index_is_healthy_and_not_ready(tmp_path: Path) -> None:
    client = TestClient(create_app(Settings(index=tmp_path)))
    assert client.get("/healthz").json() == {"ok": True}
    assert client.get("/readyz").status_code == 503
    build = synthetic.publish(tmp_path, [synthetic.Dictionary("m", 0)])
    assert client.get("/readyz").json() == {"ok": True, "build": build, "worker": "not started"}


def test_a_server_whose_worker_does_not_respond_is_not_ready(index: Path) -> None:
    client = TestClient(create_app(Settings(index=index, worker_url="http://127.0.0.1:9")))
    assert client.get("/readyz").status_code == 503 and client.get("/healthz").status_code == 200
    assert "lexiscope_worker_up 0.0" in client.get("/metrics").text


def test_requests_are_counted_by_route_and_status(browser: TestClient) -> None:
    browser.get("/search?q=a")
    browser.get("/nowhere/at/all/here")
    text = browser.get("/metrics").text
    assert 'lexiscope_requests_total{method="GET",route="/search",status="200"}' in text
    assert 'route="none",status="404"' in text and "lexiscope_request_seconds_bucket" in text


def test_a_request_is_a_line_without_its_query(browser: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "lexiscope.requests"):
        browser.get("/search?q=private")
    record = next(each for each in caplog.records if each.name == "lexiscope.requests")
    line = json.loads(JsonLines().format(record))
    assert (line["method"], line["path"], line["status"]) == ("GET", "/search", 200)
    assert line["milliseconds"] > 0 and "private" not in json.dumps(line)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOSPC])
def test_what_passes_is_a_503_without_a_trace(
    index: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def fails(*_: object) -> None:
        raise OSError(number, os.strerror(number), "/srv/index/secret")

    monkeypatch.setattr(Store, "home", fails)
    monkeypatch.setattr(Answers, "get", lambda *_: None)  # a kept answer needs no store
    with TestClient(create_app(Settings(index=index)), raise_server_exceptions=False) as client:
        answer = client.get("/index.json")
    assert answer.status_code == 503 and answer.headers["retry-after"] and "secret" not in answer.text


def test_requests_that_come_at_once_start_one_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spawned: list[str] = []

    def spawn(*_: object, **__: object) -> str:
        time.sleep(0.2)
        spawned.append("unix:///worker")
        return spawned[0]

    monkeypatch.setattr(dependencies, "spawn_worker", spawn)
    request = Request({"type": "http", "app": create_app(Settings(index=tmp_path))})
    with ThreadPoolExecutor() as threads:
        list(threads.map(dependencies.open_worker, [request] * 4))
    assert len(spawned) == 1


def test_a_server_whose_worker_is_starting_is_ready(tmp_path: Path) -> None:
    class Starting:
        starting = True

    synthetic.publish(tmp_path, [synthetic.Dictionary("m", 0)])
    app = create_app(Settings(index=tmp_path))
    app.state.worker = Starting()
    client = TestClient(app)
    assert client.get("/readyz").json()["worker"] == "starting"
    assert client.get("/metrics").status_code == 200
