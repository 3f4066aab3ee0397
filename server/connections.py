"""Connections of the server and of the model worker: clients must send their requests and read the responses
in time, and there are never so many that no descriptor is left for files.
"""

import resource
from http import HTTPStatus
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from lexiscope.records import ErrorRecord
from lexiscope.settings import Settings
from server.live.problems import PROBLEM

CHECK_SECONDS = 1.0
KEPT_DESCRIPTORS = 128
"""for the index, static files, logs, and connections to the model worker and the database"""
LEAST_CONNECTIONS = 8
HEAD_BYTES = 1 << 19
"""of a request's head; the longest address, /read with two texts, has up to 12 bytes for each character"""


class Protocol(H11Protocol):
    """HTTP/1.1 with bounds that uvicorn has not: on the time of a request's head, on the time in which a
    client reads nothing, and on the number of connections. A head may be as long as addresses are.
    """

    seconds = 30.0
    most = 1_000_000

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.conn = h11.Connection(h11.SERVER, HEAD_BYTES)

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._waiting_since = self.loop.time()
        self._paused_since: float | None = None
        self._check = self.loop.call_later(min(CHECK_SECONDS, self.seconds), self._close_if_stalled)
        if len(self.connections) > self.most:
            self._refuse(503, "the server has too many connections: try again later")

    def connection_lost(self, exc: Exception | None) -> None:
        self._check.cancel()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        self._paused_since = self.loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        self._paused_since = None
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP is answered in the one shape of errors."""
        self._refuse(400, f"this is no HTTP request: {msg}")

    def _refuse(self, status: int, detail: str) -> None:
        content = ErrorRecord(status=status, detail=detail).model_dump_json().encode()
        headers = [
            (b"content-type", PROBLEM.encode()),
            (b"content-length", str(len(content)).encode()),
            (b"cache-control", b"no-store"),
            (b"connection", b"close"),
        ]
        parts = [
            h11.Response(status_code=status, headers=headers, reason=HTTPStatus(status).phrase.encode()),
            h11.Data(data=content),
            h11.EndOfMessage(),
        ]
        for part in parts:
            self.transport.write(self.conn.send(part) or b"")
        self.transport.close()

    def _close_if_stalled(self) -> None:
        now = self.loop.time()
        if self._paused_since is not None and now - self._paused_since >= self.seconds:
            self.transport.abort()  # what was sent is not read
            return
        if self.cycle is not None and not self.cycle.response_complete:
            self._waiting_since = now
        elif now - self._waiting_since >= self.seconds:
            unread = self.transport.get_write_buffer_size() > 0
            self.transport.abort() if unread else self.transport.close()  # close would wait for the client
            return
        self._check = self.loop.call_later(min(CHECK_SECONDS, self.seconds), self._close_if_stalled)


def limit_connections(settings: Settings) -> None:
    """Bound the connections of this process by LEXISCOPE_REQUEST_SECONDS and by its descriptors, of which it
    takes as many as the system gives this user.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    Protocol.seconds = settings.request_seconds
    Protocol.most = max(hard - KEPT_DESCRIPTORS, LEAST_CONNECTIONS) if hard > 0 else Protocol.most
