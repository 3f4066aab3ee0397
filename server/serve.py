"""The web server as a process, or as several that share a port: `lexiscope serve`.

SIGTERM ends it within LEXISCOPE_SHUTDOWN_SECONDS and a few more, whatever its clients and its model worker
do. A connection that sends nothing, or half a request, is closed after LEXISCOPE_REQUEST_SECONDS.
"""

import atexit
import math
import os
import resource
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.supervisors import Multiprocess

from lexiscope.errors import LexiscopeError
from lexiscope.records import ErrorRecord
from lexiscope.settings import Settings
from server import logs
from server.app import create_app
from server.closing import CUT_SECONDS
from server.live import spawn_worker
from server.live.problems import PROBLEM
from server.metrics import FOLDER

CHECK_SECONDS = 1.0


class Protocol(H11Protocol):
    """HTTP/1.1 whose clients must send: uvicorn bounds the time between requests, not that of one's head."""

    seconds = 30.0

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._waiting_since = self.loop.time()
        self._check = self.loop.call_later(min(CHECK_SECONDS, self.seconds), self._close_if_idle)

    def connection_lost(self, exc: Exception | None) -> None:
        self._check.cancel()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP is answered in the one shape of errors."""
        record = ErrorRecord(status=400, detail=f"this is no HTTP request: {msg}")
        content = record.model_dump_json().encode()
        headers = [
            (b"content-type", PROBLEM.encode()),
            (b"content-length", str(len(content)).encode()),
            (b"cache-control", b"no-store"),
            (b"connection", b"close"),
        ]
        parts = [
            h11.Response(status_code=400, headers=headers, reason=b"Bad Request"),
            h11.Data(data=content),
            h11.EndOfMessage(),
        ]
        for part in parts:
            self.transport.write(self.conn.send(part) or b"")
        self.transport.close()

    def _close_if_idle(self) -> None:
        now = self.loop.time()
        if self.cycle is not None and not self.cycle.response_complete:
            self._waiting_since = now
        elif now - self._waiting_since >= self.seconds:
            self.transport.close()
            return
        self._check = self.loop.call_later(min(CHECK_SECONDS, self.seconds), self._close_if_idle)


_applications: list[FastAPI] = []


def application() -> FastAPI:
    """The application of this process, made at the first call."""
    if not _applications:
        settings = Settings()
        logs.configure(settings)
        Protocol.seconds = settings.request_seconds
        _applications.append(create_app(settings))
    return _applications[0]


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT. Several processes share the model worker of LEXISCOPE_WORKER_URL, or one
    that is started here. Raises SettingsError, StoreError before the port is bound.
    """
    _raise_descriptors()
    for name in (
        "host",
        "port",
    ):  # the command line's, for `application` here or in a child
        os.environ[f"LEXISCOPE_{name.upper()}"] = str(getattr(settings, name))
    config = uvicorn.Config(
        "server.serve:application",
        factory=True,
        host=settings.host,
        port=settings.port,
        http=Protocol,
        lifespan="on",
        log_config=None,
        access_log=False,
        workers=settings.web_processes,
        timeout_graceful_shutdown=math.ceil(settings.shutdown_seconds) + CUT_SECONDS,
    )
    if settings.web_processes > 1:
        logs.configure(settings)
        os.environ[FOLDER] = tempfile.mkdtemp(prefix="lexiscope-metrics-")
        atexit.register(shutil.rmtree, os.environ[FOLDER], ignore_errors=True)
        with _shared_worker(settings):
            Multiprocess(config, sockets=[config.bind_socket()]).run()
        return
    application()  # its errors are the command's, in one line
    server = uvicorn.Server(config)
    server.run()
    if not server.started:
        sys.exit(3)


@contextmanager
def _shared_worker(settings: Settings) -> Iterator[None]:
    """A model worker for all processes, where none is named; started again when it has died."""
    if settings.worker_url:
        yield
        return
    with spawn_worker(settings, wait=False) as worker:
        os.environ["LEXISCOPE_WORKER_URL"] = worker.url
        ended = threading.Event()

        def keep_running() -> None:
            while not ended.wait(CHECK_SECONDS):
                if worker.pid is None:
                    with suppress(LexiscopeError):  # it is tried again
                        worker.ensure()

        threading.Thread(target=keep_running, daemon=True).start()
        try:
            yield
        finally:
            ended.set()


def _raise_descriptors() -> None:
    """As many open files as the system lets this user have: a connection is one, and DuckDB needs some."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
