"""Steering over the web: names are resolved in the index, the worker's events arrive as server-sent events, errors have one shape."""

import json
import os
import signal
import threading
import time

import httpx
import pytest
import uvicorn
from fastapi.testclient import TestClient

from lexiscope.records import ErrorRecord
from lexiscope.settings import Settings
from server import create_app
from server.live import WorkerClient
from store import Place, Store
from tests.live.jobs import WIDTH, finish
from tests.store import synthetic


@pytest.fixture(scope="module")
def client(tiny, tmp_path_factory):
    """A synthetic index whose paths lead to the tiny model and its dictionaries."""

    class Here(Store):
        def places(self) -> list[Place]:
            moved = {"model_path": tiny.model_path}
            return [place._replace(checkpoint_path=tiny.checkpoints[place.layer], **moved) for place in super().places()]

    root = tmp_path_factory.mktemp("index")
    synthetic.publish(root, [synthetic.Dictionary("tiny", layer, "random", WIDTH) for layer in (0, 1)])
    settings = Settings(index=root)
    with TestClient(create_app(settings, store=Here(settings))) as client:
        yield client
        client.app.state.worker.close()


def post(client, *features, query="", **given):
    asked = {"model": "tiny", "prompt": "Once upon a time", "features": list(features), "max_tokens": 6} | given
    return client.post(f"/api/v1/steer{query}", json=asked)


def events(answer):
    assert answer.headers["content-type"].startswith("text/event-stream")
    return [json.loads(line.removeprefix("data:")) for line in answer.text.split("\n") if line.startswith("data:")]


def test_a_steer_by_id_streams_resolved_steps_effect_and_done(client):
    got = events(post(client, {"id": "tiny/0-random/3"}, {"id": "tiny/1-random/4", "mode": "ablate"}))
    assert [event["event"] for event in got] == ["resolved", "step", "effect", *["step"] * 5, "measured", "done"]
    assert [ref["id"] for ref in got[0]["features"]] == ["tiny/0-random/3", "tiny/1-random/4"]
    assert "".join(token["shown"] for token in got[0]["prompt_tokens"]) == "Once␣upon␣a␣time"


def test_a_name_means_the_best_evidenced_feature_and_strength_0_changes_no_text(client):
    name = client.get("/tiny/1-random/3.json").json()["feature"]["name"]
    [first, *_] = client.app.state.store.resolve_token("tiny", name["id"], layer=1).features
    got = post(client, {"token": name["id"], "layer": 1, "strength": 0}, query="?stream=false").json()
    assert got["resolved"]["features"][0]["id"] == first.id
    assert got["done"]["default_text"] == got["done"]["steered_text"] and got["effect"]["kl_first"] == 0


@pytest.mark.parametrize(
    ("features", "given", "status", "says"),
    [
        ([{"id": "tiny/0-random/9999"}], {}, 404, "9999"),
        ([{"id": "tiny/0-random/3"}], {"model": "huge"}, 404, "tiny"),
        ([{"token": " no such token", "layer": 0}], {}, 404, "no such token"),
        ([{"token": 0, "layer": 5}], {}, 404, "layers 0, 1"),
        ([{"mode": "ablate"}], {}, 422, "token"),
        ([{"id": "tiny/0-random/3"}], {"prompt": ""}, 422, "prompt"),
        ([{"id": "tiny/0-random/3"}], {"prompt": "a" * 100_000}, 422, "prompt"),
        ([{"id": "tiny/0-random/3"}], {"prompt": "a" * 19_000}, 422, "19,000 tokens"),
        ([{"id": "tiny/0-random/3", "strength": 1e9}], {}, 422, "strength"),
        ([{"id": "tiny/0-random/3"}] * 1000, {}, 422, "features"),
    ],
)
def test_what_cannot_be_steered_is_an_error_record_that_says_why(client, features, given, status, says):
    answer = post(client, *features, **given)
    assert answer.status_code == status
    assert says in ErrorRecord.model_validate(answer.json()).error


def test_a_worker_that_died_between_requests_is_not_noticed(client):
    assert post(client, {"id": "tiny/0-random/3"}).status_code == 200
    worker = client.app.state.worker
    os.kill(worker.pid, signal.SIGKILL)
    worker.lost()
    assert events(post(client, {"id": "tiny/0-random/3"}))[-1]["event"] == "done"


def test_a_closed_tab_stops_its_generation(client):
    asked = {"model": "tiny", "prompt": "Once", "features": [{"id": "tiny/0-random/3"}], "max_tokens": 256}
    post(client, *asked["features"])
    server = uvicorn.Server(uvicorn.Config(client.app, port=0, lifespan="off", log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/api/v1/steer"
    worker = WorkerClient(client.app.state.worker)
    try:
        with httpx.stream("POST", url, json=asked, trust_env=False) as answer:
            lines = answer.iter_lines()
            assert next(lines)
            assert finish(worker.health()).running
        closed = time.monotonic()
        while finish(worker.health()).running:
            time.sleep(0.01)
        assert time.monotonic() - closed < 0.4
    finally:
        server.should_exit = True
        thread.join()


def test_the_page_is_filled_in_from_its_address(client):
    page = client.get("/steer", params={"feature": "tiny/0-random/3", "prompt": "<script>"})
    assert page.status_code == 200 and "tiny/0-random/3" in page.text and "&lt;script&gt;</textarea>" in page.text
