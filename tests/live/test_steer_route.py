"""Steering over REST: names are resolved in the index, events are server-sent events, errors have one
shape.
"""

import json
import os
import signal
import time

import httpx
import pytest

from lexiscope.records import ErrorRecord
from server.live import WorkerClient
from tests.live.jobs import finish
from tests.server_thread import running


def post(client, *features, query="", **given):
    body = {
        "model": "tiny",
        "prompt": "Once upon a time",
        "features": list(features),
        "max_tokens": 6,
    } | given
    return client.post(f"/api/v1/steer{query}", json=body)


def events(answer):
    assert answer.headers["content-type"].startswith("text/event-stream")
    return [
        json.loads(line.removeprefix("data:")) for line in answer.text.split("\n") if line.startswith("data:")
    ]


def test_a_steer_by_id_streams_resolved_steps_effect_and_done(client):
    got = events(post(client, {"id": "tiny/0-random/3"}, {"id": "tiny/1-random/4", "mode": "ablate"}))
    assert [event["event"] for event in got] == [
        "resolved",
        "step",
        "effect",
        *["step"] * 5,
        "measured",
        "done",
    ]
    assert [ref["id"] for ref in got[0]["features"]] == ["tiny/0-random/3", "tiny/1-random/4"]
    assert "".join(token["shown"] for token in got[0]["prompt_tokens"]) == "Once␣upon␣a␣time"


def test_a_token_resolves_to_the_feature_that_writes_it_and_strength_0_changes_no_text(client):
    token = client.get("/tiny/1-random/3.json").json()["feature"]["writing"]["tokens"][0]
    found = client.app.state.store.resolve_token("tiny", token["id"], layer=1).written
    steered = [one for one in found.measured if one.feature]
    [first, *_] = [one.feature for one in steered if one.above] or found.listed or [steered[0].feature]
    got = post(client, {"token": token["id"], "layer": 1, "strength": 0}, query="?stream=false").json()
    assert got["resolved"]["features"][0]["id"] == first.id
    assert got["effect"]["effects"][0]["token"]["id"] == token["id"]
    assert got["done"]["default_text"] == got["done"]["steered_text"] and got["effect"]["kl_first"] == 0


ID = {"id": "tiny/0-random/3"}


@pytest.mark.parametrize(
    ("features", "given", "status", "says"),
    [
        ([{"id": "tiny/0-random/9999"}], {}, 404, "9999"),
        ([{"id": "tiny/9-random/3"}], {}, 404, "0-random"),
        ([{"id": "nonsense"}], {}, 404, "model/source/index"),
        ([ID], {"model": "huge"}, 404, "tiny"),
        ([{"token": " no such token", "layer": 0}], {}, 404, "no such token"),
        ([{"token": 0, "layer": 5}], {}, 404, "layers 0, 1"),
        ([{"token": 10**12, "layer": 0}], {}, 404, "no token"),
        ([{"mode": "ablate"}], {}, 422, "token"),
        ([ID | {"token": 3}], {}, 422, "either by"),
        ([], {}, 422, "features"),
        ([ID] * 1000, {}, 422, "features"),
        ([ID | {"mode": "explode"}], {}, 422, "mode"),
        ([ID | {"strength": 1e9}], {}, 422, "±10 norm"),
        ([ID | {"strength": 1e9, "mode": "clamp", "unit": "activation"}], {}, 422, "±100000 activation"),
        ([ID | {"strength": 0.5, "mode": "ablate"}], {}, 422, "ablate has no strength"),
        ([ID | {"layer": 0}], {}, 422, "contains its layer"),
        (
            [ID | {"strenght": 5}],
            {},
            422,
            "features.0: there is no field 'strenght'; the nearest is 'strength'",
        ),
        ([ID], {"promt": "x"}, 422, "the nearest is 'prompt'"),
        ([ID | {"when": ID | {"lyer": 0}}], {}, 422, "the nearest is 'layer'"),
        ([ID | {"strength": -11}], {}, 422, "strength -11"),
        ([ID | {"mode": "clamp", "unit": "norm"}], {}, 422, "max or activation"),
        ([ID | {"mode": "swap"}], {}, 422, "gets the activation"),
        ([ID | {"to": {"id": "tiny/0-random/4"}}], {}, 422, "gets the activation"),
        ([ID | {"mode": "swap", "to": {"id": "tiny/1-random/4"}}], {}, 422, "own layer"),
        ([ID | {"when": {"id": "tiny/1-random/4"}}], {}, 422, "later"),
        ([ID | {"positions": [10_000]}], {}, 422, "positions 0 to"),
        ([ID | {"positions": [-1]}], {}, 422, "positions"),
        ([ID], {"prompt": ""}, 422, "prompt"),
        ([ID], {"prompt": "a" * 100_000}, 422, "prompt"),
        ([ID], {"prompt": "a" * 19_000}, 422, "19,000 tokens"),
        ([ID], {"temperature": -1}, 422, "temperature"),
        ([ID], {"top_p": 0}, 422, "top_p"),
        ([ID], {"stop": [""]}, 422, "stop"),
        ([ID], {"max_tokens": 0}, 422, "max_tokens"),
        ([ID], {"seed": 2**70}, 422, "seed"),
    ],
)
def test_an_invalid_steer_is_an_error_record_with_the_reason(client, features, given, status, says):
    answer = post(client, *features, **given)
    assert answer.status_code == status
    assert says in ErrorRecord.model_validate(answer.json()).detail


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400"])
def test_a_strength_that_is_not_a_finite_number_is_rejected(client, number):
    feature = f'{{"id": "tiny/0-random/3", "strength": {number}}}'
    body = f'{{"model": "tiny", "prompt": "Once", "features": [{feature}]}}'
    answer = client.post("/api/v1/steer", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422 and "strength" in ErrorRecord.model_validate(answer.json()).detail


def test_a_dictionary_that_was_imported_without_weights_cannot_steer(client, monkeypatch):
    store = client.app.state.store
    bare = [place._replace(checkpoint_path="") for place in store.dictionaries()]
    monkeypatch.setattr(store, "dictionaries", lambda: bare)
    answer = post(client, {"id": "tiny/0-random/3"})
    assert (
        answer.status_code == 422
        and "tiny/0-random was imported without its weights"
        in ErrorRecord.model_validate(answer.json()).detail
    )


def test_a_dictionary_that_was_imported_without_its_model_cannot_steer(client, monkeypatch):
    store = client.app.state.store
    bare = [place._replace(model_path="") for place in store.dictionaries()]
    monkeypatch.setattr(store, "dictionaries", lambda: bare)
    answer = post(client, {"id": "tiny/0-random/3"})
    assert answer.status_code == 422 and "imported without their model" in answer.json()["detail"]


def test_control_tokens_in_a_prompt_stay_plain_text(client):
    got = events(post(client, ID, prompt="<|endoftext|>a"))
    assert "".join(token["shown"] for token in got[0]["prompt_tokens"]) == "<|endoftext|>a"
    assert len(got[0]["prompt_tokens"]) == 14 and "<|endoftext|>" in got[0]["notes"][0]


@pytest.mark.parametrize("path", ["/api/v1/steer?stream=false", "/api/v1/steer/sweep"])
def test_a_prompt_can_go_through_the_chat_template(client, path):
    asked = {"model": "tiny", "prompt": "Once", "features": [ID], "max_tokens": 3, "chat": True}
    got = client.post(path, json=asked).json()["resolved"]
    assert "".join(token["shown"] for token in got["prompt_tokens"]) == "Q:␣Once␣A:" and got["notes"] == []


def test_a_token_resolves_to_a_feature_and_lists_the_others(client):
    token = client.get("/tiny/1-random/3.json").json()["feature"]["writing"]["tokens"][0]["id"]
    found = client.app.state.store.resolve_token("tiny", token, layer=1)
    answer = post(client, {"token": token, "layer": 1}, query="?stream=false").json()
    [meant] = answer["resolved"]["meant"]
    listed = {meant["feature"]["id"], *(other["id"] for other in meant["others"])}
    assert listed >= {ref.id for ref in [*found.written.listed, *found.features]}
    assert meant["token"]["id"] == token and meant["by"] in ("intervention", "write list") and meant["sure"]


def test_a_steer_with_controls_returns_names_of_all_features(client):
    got = post(client, ID, query="?stream=false", controls=True).json()["measured"]
    kinds = [control["kind"] for control in got["controls"]]
    assert kinds[0] == "embedding" and kinds.count("random") == 3
    density = client.get("/tiny/0-random/3.json").json()["feature"]["density"]
    for control in got["controls"][1:]:
        assert control["features"][0]["id"] != ID["id"] and control["features"][0][
            "density"
        ] == pytest.approx(density, rel=10)
    assert got["controls_missing"] == [
        "plain: the index has no other plain dictionary at every steered layer"
    ]
    assert got["moved_source"] == "1-random" and got["rose"] and got["rose"][0]["name"]["shown"]
    assert got["named"][0]["beats_controls"] in (True, False)


def test_each_new_token_is_returned_once_with_its_most_likely_alternatives(client):
    got = events(post(client, ID, top_logprobs=3, temperature=0))
    steps = [event for event in got if event["event"] == "step"]
    assert "".join(step["steered"]["text"] for step in steps) == got[-1]["steered_text"]
    for step in steps:
        top = step["default"]["top"]
        assert len(top) == 3 and top[0]["id"] == step["default"]["token"]["id"]
        assert (
            top[0]["score"] == pytest.approx(step["default"]["logprob"])
            and top[0]["score"] >= top[1]["score"]
        )


def test_a_sweep_returns_a_point_for_each_strength(client):
    body = {
        "model": "tiny",
        "prompt": "Once upon a time",
        "features": [ID],
        "max_tokens": 6,
        "strengths": [0.25, 0.5, 1],
    }
    got = client.post("/api/v1/steer/sweep", json=body).json()
    assert [point["strength"] for point in got["swept"]["points"]] == [0.25, 0.5, 1] and got["swept"][
        "unit"
    ] == "norm"
    assert got["swept"]["default"]["kl"] == 0 and got["swept"]["points"][2]["kl"] > 0
    assert got["resolved"]["meant"][0]["feature"]["id"] == ID["id"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"features": [ID | {"mode": "ablate"}]}, "ablate"),
        ({"features": [ID, ID | {"mode": "scale"}]}, "one mode"),
        ({"strengths": [99.0]}, "strength 99 is outside ±10 norm"),
        ({"features": [ID | {"strength": 0.5}]}, "leave `strength` out"),
        ({"strength": [1.0]}, "the nearest is 'strengths'"),
        ({"strengths": []}, "strengths"),
        ({"strengths": [1.0] * 17}, "strengths"),
    ],
)
def test_an_invalid_sweep_is_rejected(client, change, says):
    body = {"model": "tiny", "prompt": "Once upon a time", "features": [ID]} | change
    answer = client.post("/api/v1/steer/sweep", json=body)
    assert answer.status_code == 422 and says in answer.json()["detail"]


def test_the_workers_queue_and_speed_can_be_read(client):
    post(client, ID)
    got = client.get("/api/v1/worker").json()
    assert (
        got["waiting"] == 0
        and got["queue"] > 0
        and got["served"] >= 1
        and got["tokens_per_second"] > 0
        and got["memory_bytes"] > 0
    )


def test_a_worker_that_died_between_requests_is_restarted(client):
    assert post(client, {"id": "tiny/0-random/3"}).status_code == 200
    worker = client.app.state.worker
    os.kill(worker.pid, signal.SIGKILL)
    worker.has_died()
    assert events(post(client, {"id": "tiny/0-random/3"}))[-1]["event"] == "done"


def test_a_closed_tab_stops_its_generation(client):
    body = {
        "model": "tiny",
        "prompt": "Once",
        "features": [{"id": "tiny/0-random/3"}],
        "max_tokens": 256,
    }
    post(client, *body["features"])
    begun = time.monotonic()
    assert client.post("/api/v1/steer", json=body).status_code == 200
    whole = time.monotonic() - begun
    worker = WorkerClient(client.app.state.worker)
    with running(client.app, lifespan="off") as address:
        with httpx.stream("POST", f"{address}/api/v1/steer", json=body, trust_env=False) as answer:
            lines = answer.iter_lines()
            assert next(lines)
            assert finish(worker.health()).running
        closed = time.monotonic()
        while finish(worker.health()).running:
            time.sleep(0.01)
        assert time.monotonic() - closed < whole / 2


def test_the_page_is_filled_in_from_its_address(client):
    page = client.get("/steer", params={"feature": "tiny/0-random/3", "prompt": "<script>"})
    assert (
        page.status_code == 200
        and "tiny/0-random/3" in page.text
        and "&lt;script&gt;</textarea>" in page.text
    )
