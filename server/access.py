"""Who asks, under which id, and how long an answer may take: API keys, request ids, time limits.

Where there is no key (`lexiscope keys add`), everyone may use the server. Where there is one, every address
but `/healthz`, `/readyz` and `/static/` needs it: `Authorization: Bearer KEY`, `X-Api-Key: KEY`, or a
browser's password.
"""

import asyncio
import base64
import binascii
import contextlib
import logging
import re
import uuid

from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lexiscope.records import ErrorRecord
from lexiscope.settings import Settings
from server.live.problems import problem
from store import ApiKeys, KeyRefused, LimitReached, StoreError

log = logging.getLogger("lexiscope.server")

OPEN = re.compile(r"/healthz|/readyz|/static/.*")
"""addresses that need no key"""
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
CLOSE = {"connection": "close"}


def install(app: FastAPI, settings: Settings) -> None:
    """The last that is added is the first that a request meets."""
    app.add_middleware(TimeLimit, seconds=settings.response_seconds)
    app.add_middleware(KeyCheck, keys=app.state.keys)


def install_ids(app: FastAPI) -> None:
    """Around everything, what is logged included."""
    app.add_middleware(RequestIds)


class RequestIds:
    """Every request has an id, the client's own (`X-Request-Id`) or a new one, which the response repeats."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        own = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = own

        async def with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["x-request-id"] = own
            await send(message)

        await self.app(scope, receive, with_id)


class KeyCheck:
    """401 without a key where keys are on, 429 for a key that has used up its limits."""

    def __init__(self, app: ASGIApp, *, keys: ApiKeys) -> None:
        self.app, self.keys = app, keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or OPEN.fullmatch(scope["path"]):
            await self.app(scope, receive, send)
            return
        try:
            needed = self.keys.on_now()
            if needed is None:
                needed = await run_in_threadpool(self.keys.on)
            if not needed:
                await self.app(scope, receive, send)
                return
            granted = await run_in_threadpool(self.keys.grant, key_of(Headers(scope=scope)))
        except KeyRefused as error:
            refused = ErrorRecord(
                status=401,
                detail=f"{error}: send one as Authorization: Bearer KEY, as X-Api-Key, or as a browser's "
                "password",
            )
            ways = 'Basic realm="Lexiscope", charset="UTF-8"'
            await problem(refused, {"www-authenticate": ways})(scope, receive, send)
            return
        except LimitReached as error:
            refused = ErrorRecord(status=429, detail=str(error))
            await problem(refused, {"retry-after": str(error.retry_after)})(scope, receive, send)
            return
        except StoreError as error:
            log.error("API keys cannot be read: %s", error)
            await problem(ErrorRecord(status=503, detail=error.public))(scope, receive, send)
            return
        scope.setdefault("state", {})["key_name"] = granted.name

        async def with_limits(message: Message) -> None:
            if message["type"] == "http.response.start" and granted.limit:
                headers = MutableHeaders(scope=message)
                headers["ratelimit-limit"] = str(granted.limit)
                headers["ratelimit-remaining"] = headers["x-limit-remaining"] = str(granted.remaining)
                headers["ratelimit-reset"] = str(granted.reset)
            await send(message)

        await self.app(scope, receive, with_limits)


def key_of(headers: Headers) -> str:
    """The key that a request sends; empty without one."""
    if own := headers.get("x-api-key"):
        return own.strip()
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() == "basic":
        with contextlib.suppress(binascii.Error, ValueError):
            return base64.b64decode(value.strip(), validate=True).decode().partition(":")[2]
    return ""


class TimeLimit:
    """504 for a response that has not begun after `seconds`. What runs in a thread goes on to its end, and is
    not waited for.
    """

    def __init__(self, app: ASGIApp, *, seconds: float) -> None:
        self.app, self.seconds = app, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        loop = asyncio.get_running_loop()
        first = loop.create_future()  # True: the response begins or has failed; False: it is late

        def settle(in_time: bool) -> None:
            if not first.done():
                first.set_result(in_time)

        async def unless_late(message: Message) -> None:
            settle(True)
            if first.result():
                await send(message)

        timer = loop.call_later(self.seconds, settle, False)
        work = asyncio.ensure_future(self.app(scope, receive, unless_late))
        work.add_done_callback(lambda _: settle(True))
        try:
            if await first:
                await work
                return
            record = ErrorRecord(
                status=504,
                detail=f"no response within {self.seconds:g} seconds: ask for less, or try again later",
            )
            await problem(record, {"retry-after": "5", **CLOSE})(scope, receive, send)
        finally:
            timer.cancel()
            if not work.done():
                work.cancel()
                work.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
