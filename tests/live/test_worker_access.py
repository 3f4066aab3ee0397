"""A worker on TCP: a secret for every request, and no file but those of its index."""

import os
import stat
import subprocess
import sys
import time
from contextlib import suppress

import httpx
import pytest
from fastapi.testclient import TestClient

from lexiscope.settings import Settings, SettingsError
from server.live.__main__ import main
from server.live.app import create_worker_app
from tests.store import synthetic

TOKEN = {"authorization": "Bearer s3cret", "content-type": "application/json"}


@pytest.fixture
def on_tcp(tmp_path):
    synthetic.publish(tmp_path, [synthetic.Dictionary("tiny", 0, "random", 48)])
    return TestClient(create_worker_app(Settings(index=tmp_path, worker_token="s3cret"), on_tcp=True))


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer other"}, {"authorization": "s3cret"}])
def test_without_the_token_nothing_is_answered(on_tcp, tiny, headers):
    job = tiny.job((0, 3, "add", 1.0)).model_dump_json()
    for answer in (
        on_tcp.get("/healthz", headers=headers),
        on_tcp.get("/openapi.json", headers=headers),
        on_tcp.post("/steer", content=job, headers=headers),
    ):
        assert answer.status_code == 401
    assert on_tcp.get("/healthz", headers=TOKEN).status_code == 200


@pytest.mark.parametrize("path", ["/etc", "someone/model", "../models/tiny"])
def test_a_model_outside_the_index_is_not_opened(on_tcp, tiny, path):
    other = tiny.job((0, 3, "add", 1.0)).model_copy(update={"model_path": path})
    answer = on_tcp.post("/steer", content=other.model_dump_json(), headers=TOKEN)
    assert answer.status_code == 403 and path not in answer.text


def test_a_dictionary_outside_the_index_is_not_opened(on_tcp, tiny, tmp_path):
    from store import Store

    [entry] = Store(Settings(index=tmp_path)).dictionaries()
    job = tiny.job((0, 3, "add", 1.0)).model_copy(update={"model_path": entry.model_path})
    answer = on_tcp.post("/steer", content=job.model_dump_json(), headers=TOKEN)
    assert answer.status_code == 403


def test_a_lens_outside_the_index_is_not_opened(tmp_path, tiny):
    index = tmp_path / "index"
    synthetic.publish(index, [synthetic.Dictionary("tiny", 0, "random", 48)])
    worker = TestClient(create_worker_app(Settings(index=index, worker_token="s3cret"), on_tcp=True))
    job = tiny.job((0, 3, "add", 1.0)).model_dump()
    from store import Store

    [entry] = Store(Settings(index=index)).dictionaries()
    job["model_path"], job["interventions"][0]["checkpoint_path"] = entry.model_path, entry.checkpoint_path
    answers = []
    for path in ("", "/etc/passwd"):
        job["interventions"][0]["lens_path"] = path
        answers.append(worker.post("/steer", json=job, headers=TOKEN).status_code)
    assert answers == [503, 403]  # 503: what the index names is not there


@pytest.mark.parametrize(("hub", "offline"), [("false", "1"), ("true", "0")])
def test_the_hub_is_asked_only_where_the_operator_says_so(hub, offline, monkeypatch, tmp_path):
    monkeypatch.setenv("LEXISCOPE_WORKER_HUB", hub)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1" if offline == "0" else "0")
    monkeypatch.setattr("uvicorn.run", lambda *_, **__: None)
    monkeypatch.setattr("server.logs.configure", lambda _: None)
    main(["--socket", str(tmp_path / "socket")])
    assert os.environ["HF_HUB_OFFLINE"] == offline


def test_a_workers_socket_is_open_to_its_user_alone(tmp_path):
    path = tmp_path / "socket"
    command = [sys.executable, "-m", "server.live", "--socket", str(path), "--leash"]
    worker = subprocess.Popen(command, stdin=subprocess.PIPE, umask=0)
    try:
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(path))) as client:
            while worker.poll() is None:
                with suppress(httpx.TransportError):
                    assert client.get("http://worker/healthz").status_code == 200
                    break
                time.sleep(0.1)
        assert stat.filemode(path.stat().st_mode) == "srwx------"
    finally:
        worker.terminate()
        worker.communicate()


def test_a_worker_does_not_start_on_tcp_without_a_token():
    with pytest.raises(SettingsError, match="LEXISCOPE_WORKER_TOKEN"):
        main(["--port", "0"])
