"""What holds for every route: HEAD, OPTIONS, other methods, unknown parameters, bodies that are refused."""

import re
from collections.abc import Iterator
from functools import partial
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from fastapi.testclient import TestClient

from lexiscope.records import MAX_DETAIL, ErrorRecord
from lexiscope.settings import Settings
from server import create_app
from server.middleware import MAX_BODY
from tests.live.jobs import finish

VALUES = {"model": "tiny", "source": "1-vasae", "index": "6", "token_id": "0"}
VALUES |= {"label_id": "1", "list_id": "1", "name": "seeds"}
PAGES = ["/", "/search", "/read", "/steer", "/docs", "/tokens/tiny/0", "/tiny/1-vasae", "/tiny/1-vasae/6"]
STATIC = ["/static/page.js", "/openapi.json"]


def routes(client: TestClient) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(method, address, description) of every route that the API reference describes."""
    for path, methods in client.get("/openapi.json").json()["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path.format(**VALUES), operation


def refused(answer: Any, status: int, says: str = "") -> None:
    record = ErrorRecord.model_validate_json(answer.content)
    assert (answer.status_code, record.status) == (status, status), answer.text
    assert answer.headers["content-type"] == "application/problem+json" and says in record.detail
    assert answer.json()["title"] and answer.headers["cache-control"] == "no-store"


def test_every_route_refuses_what_it_does_not_have(browser: TestClient) -> None:
    for method, address, operation in routes(browser):
        described = set(operation["responses"])
        refused(browser.request("PATCH", address), 405, "not for PATCH")
        as_json = {"accept": "application/json"}
        refused(browser.request(method, address, params={"nme": 1}, headers=as_json), 422, "'nme'")
        assert {"422", "500"} <= described, address
        if method in ("POST", "PUT"):
            assert {"400", "413", "415"} <= described, address
            send = partial(browser.request, method, address)
            refused(send(content=b"{}"), 415, "the request has none")
            refused(send(content=b"{}", headers={"content-type": "text/plain"}), 415)
            json = {"content-type": "application/json; charset=utf-8"}
            refused(
                send(content=b" " * MAX_BODY + b"{}", headers=json),
                413,
                "1,048,576",
            )
            refused(send(content=b"{", headers=json), 422, "not JSON")
            refused(send(content=b"\xff", headers=json), 400, "cannot be read")
            refused(send(content=b'{"seed":' + b"9" * 5000 + b"}", headers=json), 400)
            refused(send(content=b"[" * 100_000, headers=json), 400)
            refused(send(content=b"3", headers=json), 422)
            shown = "'\\ud800'" if address.startswith(("/api/v1/steer", "/api/v1/read")) else ""
            refused(send(content=b'{"model":"\\ud800"}', headers=json), 422, shown)


def test_head_is_get_without_a_body(browser: TestClient) -> None:
    described = [address for method, address, _ in routes(browser) if method == "GET"]
    for address in [*PAGES, *STATIC, "/nothing", "/tiny/1-vasae/999", *described]:
        head, get = browser.head(address), browser.get(address)
        assert (head.status_code, head.content) == (get.status_code, b""), address
        for answer in (head, get):
            answer.headers.pop("x-request-id")  # each has its own
        assert dict(head.headers) == dict(get.headers), address


def test_options_and_405_name_the_methods_of_all_routes_at_an_address(browser: TestClient) -> None:
    for address, allowed in [
        *((page, "GET, HEAD, OPTIONS") for page in (*PAGES, *STATIC)),
        ("/api/v1/steer", "OPTIONS, POST"),
    ]:
        answer = browser.options(address)
        assert (answer.status_code, answer.headers["allow"]) == (204, allowed), address
        assert browser.delete(address).headers["allow"] == allowed
    refused(browser.options("/nothing/at/all/here"), 404)


@pytest.mark.parametrize("announced", [None, 10**12, 10**30], ids=str)
def test_an_endless_body_is_refused_as_soon_as_it_is_too_long(
    browser: TestClient, announced: int | None
) -> None:
    sent: list[Any] = []
    chunks = 0

    async def receive() -> dict[str, Any]:
        nonlocal chunks
        chunks += 1
        return {"type": "http.request", "body": b" " * 65_536, "more_body": True}

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"content-type", b"application/json"), (b"host", b"localhost")]
    if announced is not None:
        headers.append((b"content-length", str(announced).encode()))
    path = "/api/v1/steer"
    scope = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b""}
    scope |= {
        "headers": headers,
        "scheme": "http",
        "http_version": "1.1",
        "root_path": "",
        "server": ("x", 1),
    }
    finish(browser.app(scope, receive, send))  # type: ignore[arg-type]
    assert chunks == (MAX_BODY // 65_536 + 1 if announced is None else 0)
    assert sent[0]["status"] == 413 and (b"connection", b"close") in sent[0]["headers"]
    assert ErrorRecord.model_validate_json(sent[1]["body"]).status == 413


def test_an_unexpected_error_announces_that_the_connection_closes(index: Path) -> None:
    app = create_app(Settings(index=index))
    app.add_api_route("/broken", lambda: 1 / 0)
    answer = TestClient(app, raise_server_exceptions=False).get("/broken", headers={"accept": "text/json"})
    refused(answer, 500, "ZeroDivisionError")
    assert answer.headers["connection"] == "close"


def test_a_detail_is_bounded_and_can_be_encoded() -> None:
    record = ErrorRecord(status=404, detail="\ud800" + 10_000 * "x")
    assert record.detail.startswith("\\ud800x") and len(record.detail) == MAX_DETAIL
    assert ErrorRecord.model_validate_json(record.model_dump_json()) == record


def test_a_worker_that_is_not_there_is_a_503(browser: TestClient) -> None:
    answer = browser.get("/api/v1/worker")
    refused(answer, 503, "No model worker responds")
    assert answer.headers["retry-after"] == "5"


def test_a_long_list_is_refused_before_its_items_are_read(browser: TestClient) -> None:
    body = {"model": "tiny", "prompt": "a", "features": [1] * 200_000}
    refused(browser.post("/api/v1/steer", json=body), 422, "features has 200,000 items, and at most 32")


def test_the_stream_of_a_steer_and_its_events_are_described(browser: TestClient) -> None:
    described = browser.get("/openapi.json").json()
    content = described["paths"]["/api/v1/steer"]["post"]["responses"]["200"]["content"]
    schema = content["text/event-stream"]["schema"]["properties"]["data"]["contentSchema"]
    names = [option["$ref"].rpartition("/")[2] for option in schema["oneOf"]]
    assert names[0] == "SteerResolved" and names[-1] == "SteerError"
    for name in names:
        assert described["components"]["schemas"][name]["properties"]["event"]["const"]


def test_links_and_forms_have_only_parameters_that_exist(browser: TestClient) -> None:
    addresses = set()
    for page in ["/search?q=a", "/tiny/1-vasae?limit=1", "/tiny/1-vasae/6", "/", "/read"]:
        html = browser.get(page).text
        addresses |= {unescape(link) for link in re.findall(r'href="(/[^"#]*\?[^"#]*)', html)}
        for action, form in re.findall(r'<form[^>]*action="([^"#]*)[^>]*>(.*?)</form>', html, re.S):
            names = re.findall(r'\sname="(\w+)"', form)
            addresses.add(f"{action}?{urlencode(dict.fromkeys(names, ''))}")
    assert len(addresses) > 5
    for address in addresses:
        assert "there is no parameter" not in browser.get(address).text, address
