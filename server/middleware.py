"""What holds for every request, whatever its route: it names a host that is served, changes nothing from
another site, and is bounded in size and time; responses are compressed and say what a browser may do with
them; HEAD is GET without a body.
"""

import asyncio
from collections.abc import Collection
from urllib.parse import urlsplit

from fastapi import FastAPI
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware.gzip import GZipMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lexiscope.records import ErrorRecord
from lexiscope.settings import Settings
from server.answers import GZIP_LEVEL, SMALLEST
from server.live.problems import problem
from server.responses import PROTECTION

MAX_BODY = 1 << 20
"""bytes; two texts of 20,000 characters and 32 interventions are less, however JSON writes them"""
TOO_LARGE = f"the body is too large: at most {MAX_BODY:,} bytes are read"
TOO_SLOW = "the body did not come whole in time (LEXISCOPE_REQUEST_SECONDS)"


SAFE_METHODS = ("GET", "HEAD", "OPTIONS")


def install(app: FastAPI, settings: Settings) -> None:
    """The last that is added is the first that a request meets."""
    app.add_middleware(BodyLimit, seconds=settings.request_seconds)
    app.add_middleware(OwnHosts, hosts=settings.host_names)
    app.add_middleware(Protection)
    app.add_middleware(GZipMiddleware, minimum_size=SMALLEST, compresslevel=GZIP_LEVEL)
    app.add_middleware(HeadAsGet)


class OwnHosts:
    """421 for a Host that is not one of `hosts`, so that a name which an attacker points at this address
    (DNS rebinding) reads nothing; 403 where a page of another site asks for a change.

    Browsers send Origin with every method that is not safe; other clients send none and are let through.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str]) -> None:
        self.app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refused = self._refusal(scope) if scope["type"] == "http" else None
        if refused is None:
            await self.app(scope, receive, send)
        else:
            await problem(refused)(scope, receive, send)

    def _refusal(self, scope: Scope) -> ErrorRecord | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if "*" not in self._hosts and host_name(host) not in self._hosts:
            return ErrorRecord(
                status=421,
                detail=f"this server is not reached by the name {host[:80]!r}: LEXISCOPE_ALLOWED_HOSTS lists "
                "the names that it answers to",
            )
        origin = headers.get("origin")
        if scope["method"] in SAFE_METHODS or origin is None:
            return None
        if urlsplit(origin).netloc.lower() != host.lower():
            return ErrorRecord(status=403, detail=f"a page of {origin[:80]!r} may not change anything here")
        return None


def host_name(host: str) -> str:
    """A Host header without its port, in lower case."""
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdigit() else host).lower()


class BodyLimit:
    """413 for a body of more than MAX_BODY bytes: before it is read where its length is given, else as soon
    as more have come. 408 for one that has not come whole within `seconds`. The connection is closed, because
    the rest is not read.
    """

    def __init__(self, app: ASGIApp, seconds: float) -> None:
        self.app = app
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        length = Headers(scope=scope).get("content-length", "0")
        if length.isascii() and length.isdigit() and (len(length) > 15 or int(length) > MAX_BODY):
            refused = problem(ErrorRecord(status=413, detail=TOO_LARGE), {"connection": "close"})
            await refused(scope, receive, send)
            return
        read, whole = 0, False
        deadline = asyncio.get_running_loop().time() + self._seconds

        async def bounded() -> Message:
            nonlocal read, whole
            try:
                async with asyncio.timeout_at(None if whole else deadline):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, TOO_SLOW, {"connection": "close"}) from None
            whole = whole or not message.get("more_body", False)
            read += len(message.get("body", b""))
            if read > MAX_BODY:
                raise HTTPException(413, TOO_LARGE, {"connection": "close"})
            return message

        await self.app(scope, bounded, send)


class Protection:
    """Adds PROTECTION to every response. That of an exception that nothing handles has it already."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def protected(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in PROTECTION.items():
                    headers.setdefault(name, value)
            await send(message)

        await self.app(scope, receive, protected)


class HeadAsGet:
    """HEAD has the status and the headers of GET, errors included."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self.app(scope, receive, send)
            return

        async def without_body(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        await self.app({**scope, "method": "GET"}, receive, without_body)
