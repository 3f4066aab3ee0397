"""What holds for every request, whatever its route: bodies are bounded, responses are compressed and say
what a browser may do with them, and HEAD is GET without a body.
"""

from fastapi import FastAPI
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware.gzip import GZipMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lexiscope.records import ErrorRecord
from server.live.problems import problem
from server.responses import PROTECTION

MAX_BODY = 1 << 20
"""bytes; two texts of 20,000 characters and 32 interventions are less, however JSON writes them"""
GZIP_LEVEL = 5
"""a tenth larger than the smallest (9), in a third of the time"""
TOO_LARGE = f"the body is too large: at most {MAX_BODY:,} bytes are read"


def install(app: FastAPI) -> None:
    """The last that is added is the first that a request meets."""
    app.add_middleware(BodyLimit)
    app.add_middleware(Protection)
    app.add_middleware(GZipMiddleware, minimum_size=500, compresslevel=GZIP_LEVEL)
    app.add_middleware(HeadAsGet)


class BodyLimit:
    """413 for a body of more than MAX_BODY bytes: before it is read where its length is given, else as soon
    as more have come. The connection is closed, because the rest is not read.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        length = Headers(scope=scope).get("content-length", "0")
        if length.isascii() and length.isdigit() and (len(length) > 15 or int(length) > MAX_BODY):
            refused = problem(ErrorRecord(status=413, detail=TOO_LARGE), {"connection": "close"})
            await refused(scope, receive, send)
            return
        read = 0

        async def bounded() -> Message:
            nonlocal read
            message = await receive()
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
