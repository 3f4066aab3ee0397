"""Keys, limits, request ids, the access log and time limits, of the whole application."""

import asyncio
import base64
import logging
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from starlette.types import Message, Receive, Scope, Send

from lexiscope.records import ErrorRecord
from lexiscope.settings import Settings
from server import create_app
from server.access import TimeLimit
from store import ApiKeys
from tests.store import synthetic


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    synthetic.publish(tmp_path)
    return Settings(index=tmp_path)


@pytest.fixture
def app(settings: Settings) -> Iterator[FastAPI]:
    yield create_app(settings)


def add_key(settings: Settings, name: str, **limits: int) -> str:
    keys = ApiKeys(settings)
    try:
        return keys.add(name, **limits)
    finally:
        keys.close()


def test_a_key_is_needed_as_soon_as_there_is_one(settings: Settings) -> None:
    assert TestClient(create_app(settings)).get("/api/v1/models").status_code == 200
    key = add_key(settings, "ann")
    with TestClient(create_app(settings)) as client:
        for address in ("/", "/api/v1/models", "/openapi.json", "/nothing"):
            refused = client.get(address)
            assert refused.status_code == 401 and "a key is needed" in ErrorRecord(**refused.json()).detail
            assert refused.headers["www-authenticate"].startswith("Basic")
        assert client.get("/healthz").status_code == client.get("/static/page.js").status_code == 200
        password = base64.b64encode(f"anyone:{key}".encode()).decode()
        for headers in (
            {"x-api-key": key},
            {"authorization": f"Bearer {key}"},
            {"authorization": f"Basic {password}"},
        ):
            assert client.get("/api/v1/models", headers=headers).status_code == 200
        for headers in (
            {"x-api-key": key[:-1]},
            {"authorization": f"Digest {key}"},
            {"authorization": "Basic !"},
        ):
            assert client.get("/api/v1/models", headers=headers).status_code == 401


def test_a_key_that_is_used_up_is_told_when_to_come_again(settings: Settings) -> None:
    key = {"x-api-key": add_key(settings, "ann", per_minute=2)}
    other = {"x-api-key": add_key(settings, "bob")}
    with TestClient(create_app(settings)) as client:
        answers = [client.get("/api/v1/models", headers=key) for _ in range(4)]
        codes = [answer.status_code for answer in answers]
        assert codes.count(429) >= 1 and codes[:2] == [200, 200]  # a minute may end in between
        assert answers[0].headers["ratelimit-limit"] == "2"
        assert int(answers[0].headers["x-limit-remaining"]) in (0, 1)
        late = answers[codes.index(429)]
        assert 1 <= int(late.headers["retry-after"]) <= 60
        assert "2 requests a minute" in ErrorRecord(**late.json()).detail
        free = client.get("/api/v1/models", headers=other)
        assert free.status_code == 200 and "ratelimit-limit" not in free.headers


def test_every_response_has_a_request_id(app: FastAPI) -> None:
    client = TestClient(app)
    assert client.get("/", headers={"x-request-id": "mine-1"}).headers["x-request-id"] == "mine-1"
    made = [
        client.get("/nothing", headers=headers).headers["x-request-id"]
        for headers in ({}, {"x-request-id": "two words"}, {"x-request-id": "x" * 65})
    ]
    assert len({*made}) == 3 and all(len(one) == 32 for one in made)


def test_the_log_line_of_a_request_has_who_and_what_and_no_text(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    key = {"x-api-key": add_key(settings, "ann")}
    caplog.set_level(logging.INFO, "lexiscope.requests")
    with TestClient(create_app(settings)) as client:
        client.get("/search", params={"q": "a secret prompt"}, headers={**key, "x-request-id": "r-7"})
        client.post("/api/v1/steer", json={"prompt": "a secret prompt"}, headers=key)
    fields = [vars(record) for record in caplog.records]
    assert [(line["key"], line["path"], line["status"]) for line in fields] == [
        ("ann", "/search", 200),
        ("ann", "/api/v1/steer", 422),
    ]
    assert fields[0]["request"] == "r-7" and "secret" not in str(fields)
    assert key["x-api-key"] not in str(fields)


def test_a_response_that_does_not_begin_in_time_is_a_504(settings: Settings) -> None:
    app = create_app(settings.model_copy(update={"response_seconds": 0.2}))
    app.add_api_route("/slow", lambda: time.sleep(4))
    begun = time.monotonic()
    answer = TestClient(app).get("/slow")
    assert answer.status_code == 504 and time.monotonic() - begun < 3.5
    assert "0.2 seconds" in ErrorRecord(**answer.json()).detail
    assert answer.headers["connection"] == "close"
    assert TestClient(app).get("/healthz").status_code == 200


@pytest.mark.parametrize("turns", range(4))
def test_a_response_that_begins_as_the_time_ends_is_sent_once(turns: int) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def sent() -> list[str]:
        kinds: list[str] = []

        async def send(message: Message) -> None:
            kinds.append(message["type"])

        async def receive() -> Message:
            return {"type": "http.request"}

        scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "query_string": b""}
        await TimeLimit(app, seconds=0)(scope, receive, send)
        await asyncio.sleep(0.01)
        return kinds

    with ThreadPoolExecutor(1) as pool:  # the browser tests keep a loop running in the main thread
        kinds = pool.submit(asyncio.run, sent()).result()
    assert kinds == ["http.response.start", "http.response.body"]
