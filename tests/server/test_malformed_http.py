"""What is no HTTP gets an error in the one shape, and other connections go on."""

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lexiscope.records import ErrorRecord
from lexiscope.settings import Settings
from server import create_app
from server.connections import Protocol
from tests.server_thread import running

REST = b"Host: localhost\r\nConnection: close\r\n\r\n"


@pytest.fixture(scope="module")
def port(index: Path) -> Iterator[int]:
    with running(create_app(Settings(index=index)), http=Protocol, log_level="critical") as address:
        yield int(address.rpartition(":")[2])


def send(port: int, sent: bytes) -> tuple[bytes, bytes]:
    """(head, body) of the answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(sent)
        received = b""
        while part := connection.recv(65_536):
            received += part
    head, _, body = received.partition(b"\r\n\r\n")
    return head, body


@pytest.mark.parametrize(
    "sent",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\nbad header\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"POST /api/v1/steer HTTP/1.1\r\nHost: localhost\r\nContent-Length: many\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
def test_what_is_no_http_is_answered_as_a_problem(port: int, sent: bytes) -> None:
    head, body = send(port, sent + b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ") and b"application/problem+json" in head
    record = ErrorRecord.model_validate_json(body)
    assert record.status == 400 and "no HTTP" in record.detail
    head, _ = send(port, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")


def test_an_address_may_hold_two_texts_of_the_longest(port: int) -> None:
    longest = "%F0%9F%99%82" * 40_000
    head, body = send(port, f"GET /lists.json?name={longest} HTTP/1.1\r\n".encode() + REST)
    assert head.startswith(b"HTTP/1.1 422 ") and b"at most 80 characters" in body


def test_beyond_the_most_connections_one_is_told_so(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Protocol, "most", 0)
    head, body = send(port, b"")
    assert head.startswith(b"HTTP/1.1 503 ") and b"too many connections" in body
    monkeypatch.undo()
    head, _ = send(port, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")


def test_a_client_that_reads_nothing_is_dropped(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Protocol, "seconds", 0.5)
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
    connection.connect(("127.0.0.1", port))
    wanted = b"GET /static/vendor/plotly-basic.min.js HTTP/1.1\r\nHost: localhost\r\n\r\n"
    connection.sendall(wanted * 20)
    time.sleep(2.5)
    received = 0
    connection.settimeout(10)
    with pytest.raises(OSError):  # reset: the rest was thrown away
        while part := connection.recv(65_536):
            received += len(part)
        raise ConnectionResetError
    connection.close()
    assert 0 < received < 20_000_000
