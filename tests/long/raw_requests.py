"""Requests that no client would send, as bytes on a socket: hypothesis makes methods, addresses, headers and
bodies out of what the API knows and out of nothing.

No answer may be a 5xx, hold a path of the server's machine or a trace, or be missing where the request was
whole; the log may hold no trace.
"""

import http.client
import json
import os
import random
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_from_bytes

import httpx
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

import indexer
import trainer
from lexiscope.checkpoint import load_checkpoint
from lexiscope.settings import Settings
from lexiscope.text import Text
from tests.long.kills import QUIET, begin, plan
from tests.smoke import free_port

NASTY = [
    "", "0", "-1", "1e309", "NaN", "null", "true", "[]", "{}", "..", "../../etc/passwd", "%00", "\x00",
    "\ud800", "'; DROP TABLE feature; --", "<script>alert(1)</script>", "{{7*7}}", "9" * 40, "a" * 3000,
    "\u202e", "𝟙", "١",
    "tiny", "0-vasae", "1-plain", "the", " ", "+", "*", "%", "%25", "http://127.0.0.1:1/",
    "file:///etc/passwd",
]  # fmt: skip
HEADERS = [
    ("accept", "text/html"), ("accept", "application/json"), ("accept", "*/*;q=banana"), ("accept", "\xff"),
    ("accept-encoding", "gzip, br;q=0"), ("range", "bytes=0-"), ("range", "bytes=-9999999999999"),
    ("if-none-match", '"x"'), ("if-none-match", "*"), ("if-modified-since", "never"),
    ("origin", "http://evil"), ("origin", "null"), ("host", "evil.example"), ("host", ""),
    ("cookie", "a=b; c"), ("x-api-key", "x" * 200),
    ("authorization", "Bearer \xe9"), ("x-forwarded-for", "1.2.3.4, x"), ("x-request-id", "<x>" * 50),
    ("content-encoding", "gzip"), ("expect", "100-continue"), ("upgrade", "websocket"), ("te", "trailers"),
    ("content-type", "application/json"), ("content-type", "text/plain"), ("content-type", "\x80"),
    ("content-type", "multipart/form-data"), ("content-type", "application/json; charset=utf-16"),
    ("x-" + "y" * 500, "z" * 5000),
]  # fmt: skip
METHODS = (
    "GET",
    "GET",
    "GET",
    "POST",
    "POST",
    "HEAD",
    "PUT",
    "DELETE",
    "PATCH",
    "OPTIONS",
    "TRACE",
    "get",
    "X",
)


class Api:
    """What the server says of itself: addresses with values that exist, and bodies that are right."""

    def __init__(self, document: dict[str, Any]) -> None:
        known = {"model": "tiny", "source": "0-vasae", "index": "3", "name": "x", "format": "csv"}
        self.paths, self.parameters, self.bodies = [], set[str](), [{}]
        for path, operations in document["paths"].items():
            filled = "/".join(
                known.get(part.strip("{}").partition(":")[0], "1") if part.startswith("{") else part
                for part in path.split("/")
            )
            self.paths.append(filled)
            for operation in operations.values():
                self.parameters |= {
                    each["name"] for each in operation.get("parameters", ()) if "name" in each
                }
        for schema in document["components"]["schemas"].values():
            self.bodies += schema.get("examples", [])
        self.bodies.append(
            {"model": "tiny", "prompt": "the", "max_tokens": 2,
             "features": [{"id": "tiny/0-vasae/3", "mode": "add", "strength": 1.0}]}
        )  # fmt: skip
        self.bodies.append({"model": "tiny", "text": "the cat"})


def text() -> st.SearchStrategy[str]:
    return st.sampled_from(NASTY) | st.text(max_size=30)


def encoded(value: str) -> str:
    return quote(value.encode("utf-8", "surrogatepass"), safe="/")


def values() -> st.SearchStrategy[Any]:
    flat = st.none() | st.booleans() | st.integers() | st.floats() | text()
    return st.recursive(
        flat, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text(), inner, max_size=3)
    )


@st.composite
def bodies(draw: st.DrawFn, api: Api) -> bytes:
    kind = draw(st.integers(0, 9))
    if kind < 2:
        return b""
    if kind < 3:
        return draw(st.binary(max_size=200))
    body = json.loads(json.dumps(draw(st.sampled_from(api.bodies))))
    for _ in range(draw(st.sampled_from((0, 0, 1, 1, 2)))):
        names = [*body, draw(text())]
        body[draw(st.sampled_from(names))] = draw(values())
    return json.dumps(body).encode("utf-8", "surrogatepass")


@st.composite
def requests(draw: st.DrawFn, api: Api) -> tuple[str, bytes]:
    """(method, bytes)"""
    method = draw(st.sampled_from(METHODS))
    path = draw(st.sampled_from(api.paths))
    change = draw(st.integers(0, 9))  # most parts stay as they are, so that others are reached
    parts = path.split("/")
    if change < 3 and len(parts) > 1:
        parts[draw(st.integers(1, len(parts) - 1))] = encoded(draw(text()))
    elif change == 3:
        parts = ["", quote_from_bytes(draw(st.binary(max_size=20)))]
    path = "/".join(parts) or "/"
    names = st.sampled_from(sorted(api.parameters)) | text()
    query = draw(st.lists(st.tuples(names, text()), max_size=2)) if draw(st.integers(0, 2)) == 0 else []
    if query:
        path += "?" + "&".join(f"{encoded(name)}={encoded(value)}" for name, value in query)
    headers = dict(draw(st.lists(st.sampled_from(HEADERS), max_size=2)) if draw(st.booleans()) else [])
    body = draw(bodies(api)) if method not in ("GET", "HEAD") or draw(st.booleans()) else b""
    headers = {"host": "localhost", **headers}
    if body and "content-type" not in headers:
        headers["content-type"] = "application/json"
    if body or method == "POST":
        headers["content-length"] = str(len(body))
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return method, "\r\n".join(lines).encode("latin-1", "replace") + b"\r\n\r\n" + body


@contextmanager
def running(folder: Path) -> Iterator[tuple[int, Path]]:
    """(port, log) of a server over the tiny model, trained and indexed."""
    model = begin(folder)
    paths = trainer.train(model, plan(folder, folder / "runs"), console=QUIET)
    own = Settings(index=folder / "index", lenses=folder / "lenses", runs=folder / "runs")
    ask = indexer.IndexRequest(tokens=3000, length=48)
    loaded = [(model, [load_checkpoint(path) for path in paths])]
    indexer.index(loaded, Text((str(folder / "text.txt"),)), settings=own, console=QUIET, request=ask)
    port = free_port()
    environment = {
        f"LEXISCOPE_{name.upper()}": str(folder / name) for name in ("index", "runs", "lenses", "studies")
    }
    log = folder / "log"
    with log.open("wb") as sink:
        command = [sys.executable, "-c", "import cli; cli.run()", "serve", "--port", str(port)]
        server = subprocess.Popen(command, env={**os.environ, **environment}, stderr=sink)
        try:
            for _ in range(1200):
                try:
                    httpx.get(f"http://127.0.0.1:{port}/healthz")
                    break
                except httpx.TransportError:
                    time.sleep(0.1)
            yield port, log
        finally:
            server.terminate()
            server.wait(60)


def raw_requests(folder: Path, rounds: int, draw: random.Random) -> tuple[int, str]:
    """`rounds` requests."""
    statuses: Counter[str] = Counter()
    with running(folder) as (port, log):
        api = Api(httpx.get(f"http://127.0.0.1:{port}/openapi.json", timeout=100).json())
        hidden = [
            str(folder).encode(),
            b"Traceback",
            b'File "/',
            str(Path.cwd()).encode(),
            sys.prefix.encode(),
        ]
        connection: list[socket.socket] = []

        def answer(method: str, sent: bytes) -> tuple[int, bytes, bool]:
            if not connection:
                connection.append(socket.create_connection(("127.0.0.1", port), timeout=100))
            connection[0].sendall(sent)
            response = http.client.HTTPResponse(connection[0], method=method)
            response.begin()
            while response.status == 100:
                response = http.client.HTTPResponse(connection[0], method=method)
                response.begin()
            head = repr(response.getheaders()).encode()
            return response.status, head + response.read(), response.will_close

        @seed(draw.randrange(1 << 30))
        @settings(max_examples=rounds, database=None, deadline=None, phases=[Phase.generate],
                  suppress_health_check=list(HealthCheck))  # fmt: skip
        @given(requests(api))
        def check(request: tuple[str, bytes]) -> None:
            method, sent = request
            fresh = not connection
            try:
                status, said, closes = answer(method, sent)
            except (OSError, http.client.HTTPException):
                connection.pop().close()
                if fresh:
                    raise
                status, said, closes = answer(method, sent)  # the server had closed an idle connection
            if closes:
                connection.pop().close()
            statuses[f"{status // 100}xx"] += 1
            assert status < 500, (status, sent[:600], said[-600:])
            assert not [text for text in hidden if text in said], (sent[:600], said[-2000:])

        check()
        assert b"Traceback" not in log.read_bytes(), log.read_text()[-3000:]
    return sum(statuses.values()), ", ".join(f"{count:,} {name}" for name, count in sorted(statuses.items()))
