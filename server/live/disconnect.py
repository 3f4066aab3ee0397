"""Awaiting a result while watching whether the client is still connected, and the server not closing."""

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import Request

POLL_SECONDS = 0.05

T = TypeVar("T")


class ClientDisconnected(Exception):
    """The client closed its connection."""


class ServerClosing(Exception):
    """The server ends, and the time for requests in progress is up."""


async def while_connected(
    request: Request, work: Coroutine[Any, Any, T], *, closing: threading.Event | None = None
) -> T:
    """The result of `work`. Cancels it and raises ClientDisconnected if the client of `request` disconnects
    first, or ServerClosing if `closing` is set first.
    """
    task = asyncio.ensure_future(work)
    try:
        while True:
            done, _ = await asyncio.wait({task}, timeout=POLL_SECONDS)
            if done:
                return task.result()
            if await request.is_disconnected():
                raise ClientDisconnected
            if closing is not None and closing.is_set():
                raise ServerClosing
    finally:
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
