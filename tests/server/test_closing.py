"""How the server process ends, and what clients that stall get."""

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from lexiscope.records.live import SteerError
from server.live.messages import Event
from server.logs import OnceInAWhile
from server.worker_requests import _until
from tests.live.jobs import finish
from tests.smoke import free_port


def start(index: Path, *arguments: str, **settings: str) -> subprocess.Popen[bytes]:
    """`lexiscope serve` as a process."""
    given = {f"LEXISCOPE_{name.upper()}": value for name, value in settings.items()}
    return subprocess.Popen(
        [sys.executable, "-c", "import cli; cli.run()", "serve", *arguments],
        env={**os.environ, "LEXISCOPE_INDEX": str(index), **given},
        stderr=subprocess.PIPE,
    )


class Running:
    """`lexiscope serve` as a process that answers."""

    def __init__(self, index: Path, **settings: str) -> None:
        self.port = free_port()
        self.process = start(index, "--port", str(self.port), **settings)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                httpx.get(f"http://127.0.0.1:{self.port}/static/none")
                return
            except httpx.TransportError:
                time.sleep(0.1)
        self.process.kill()
        _, said = self.process.communicate()
        pytest.fail(f"the server did not start: {said.decode()}")

    def half_a_request(self, text: str) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port))
        connection.sendall(text.encode())
        return connection


@pytest.fixture
def running(index: Path) -> Iterator[Running]:
    server = Running(index, shutdown_seconds="1", request_seconds="2", worker_url="http://127.0.0.1:9")
    yield server
    server.process.kill()
    server.process.wait()


HEAD = (
    "POST /api/v1/steer HTTP/1.1\r\nHost: localhost\r\n"
    "content-type: application/json\r\ncontent-length: 99\r\n"
)


@pytest.mark.slow
def test_stalled_clients_are_dropped_and_do_not_hold_up_the_end(running: Running) -> None:
    silent, half_head = running.half_a_request(""), running.half_a_request("GET / HTTP/1.1\r\nHo")
    half_body = running.half_a_request(f"{HEAD}\r\n{{")
    for connection in (silent, half_head, half_body):
        connection.settimeout(20)
    assert silent.recv(1000) == b"" and half_head.recv(1000) == b""
    assert b"408" in half_body.recv(1000)
    stalled = running.half_a_request(f"{HEAD}\r\n{{")
    time.sleep(0.2)
    begun = time.monotonic()
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(timeout=30) is not None
    assert time.monotonic() - begun < 15
    stalled.close()


@pytest.mark.slow
def test_a_worker_that_never_answers_does_not_hold_up_the_end(index: Path) -> None:
    feature = {"id": "tiny/1-vasae/6", "mode": "add", "strength": 1}
    body = {"model": "tiny", "prompt": "a", "features": [feature]}
    with socket.create_server(("127.0.0.1", 0)) as hung, ThreadPoolExecutor() as clients:
        hung.settimeout(60)
        server = Running(index, shutdown_seconds="1", worker_url=f"http://127.0.0.1:{hung.getsockname()[1]}")
        try:
            own = f"http://127.0.0.1:{server.port}/api/v1/steer"
            waiting = [
                clients.submit(httpx.post, own, params={"stream": stream}, json=body, timeout=60)
                for stream in ("true", "false")
            ]
            jobs = [hung.accept()[0] for _ in waiting]  # which get no answer
            assert all(job.recv(1000) for job in jobs)
            begun = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            assert {answer.result().status_code for answer in waiting} == {503}
            assert server.process.wait(timeout=30) is not None and time.monotonic() - begun < 15
        finally:
            server.process.kill()


@pytest.mark.slow
def test_a_wrong_setting_is_one_line(index: Path) -> None:
    server = start(index, database_url="mysql://alice:s3cret@db/x", worker_queue="none")
    _, said = server.communicate(timeout=60)
    text = said.decode()
    assert server.returncode == 1 and text.count("\n") == 1
    assert "LEXISCOPE_DATABASE_URL" in text and "LEXISCOPE_WORKER_QUEUE" in text and "s3cret" not in text


def test_a_stream_that_is_cut_ends_with_an_error() -> None:
    async def endless() -> AsyncIterator[Event]:
        yield SteerError(status=499, detail="first")
        await asyncio.sleep(60)
        yield SteerError(status=499, detail="never")

    async def cut() -> list[Event]:
        closing = threading.Event()
        asyncio.get_running_loop().call_later(0.3, closing.set)
        return [event async for event in _until(closing, endless())]

    first, last = finish(cut())
    assert first.detail == "first" and last.event == "error" and last.status == 503


def test_a_line_that_repeats_is_logged_once_in_a_while() -> None:
    def record(message: str) -> logging.LogRecord:
        return logging.LogRecord("asyncio", logging.ERROR, "f", 1, message, (), None)

    once = OnceInAWhile()
    passed = [once.filter(record(message)) for message in ["no descriptors"] * 1000 + ["another"]]
    assert sum(passed) == 2 and passed[0] and passed[-1]
