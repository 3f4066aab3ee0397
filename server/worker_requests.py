"""Submits jobs to the model worker on behalf of a client that may disconnect: as a stream, or all events at
once.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import anyio
from fastapi import Request
from fastapi.responses import Response
from pydantic import BaseModel
from sse_starlette import EventSourceResponse, ServerSentEvent

from lexiscope.records.live import SteerError
from server.live import WorkerClient, WorkerRefused
from server.live.disconnect import ClientDisconnected, ServerClosing, while_connected
from server.live.messages import Event, Job

PING_SECONDS = 15
CLOSING_SECONDS = 0.25
"""between two looks whether the server is closing"""
CLOSING = "The server is shutting down. The text generated so far is kept. Try again in a moment."
CLIENT_CLOSED_REQUEST = Response(status_code=499)
"""for a client that has disconnected and gets no response"""

EventToRecord = Callable[[Event], BaseModel | None]
"""Converts an event of the worker to the record that the client gets; None: the client gets nothing."""


async def stream(request: Request, worker: WorkerClient, job: Job, to_record: EventToRecord) -> Response:
    """The events as server-sent events. Raises WorkerRefused before the first."""
    async with AsyncExitStack() as stack:
        try:
            events = await _submit(request, worker, job, stack)
            messages = _messages(events, to_record, stack.pop_all(), request.app.state.closing)
            return EventSourceResponse(
                messages,
                sep="\n",
                ping=PING_SECONDS,
                # the library would cut streams at SIGTERM; `closing` ends them, later and with an event
                shutdown_event=anyio.Event(),
                shutdown_grace_period=request.app.state.settings.shutdown_seconds + 1,
            )
        except ClientDisconnected:
            return CLIENT_CLOSED_REQUEST
    raise AssertionError("unreachable")


async def collect(request: Request, worker: WorkerClient, job: Job) -> list[Event] | None:
    """All events of a job; None if the client has disconnected. Raises WorkerRefused."""
    async with AsyncExitStack() as stack:
        try:
            events = await _submit(request, worker, job, stack)
            return await while_connected(request, _all(events), closing=request.app.state.closing)
        except ClientDisconnected:
            return None
        except ServerClosing:
            raise WorkerRefused(503, CLOSING, retry_after="5") from None
    raise AssertionError("unreachable")


async def _submit(
    request: Request, worker: WorkerClient, job: Job, stack: AsyncExitStack
) -> AsyncIterator[Event]:
    """The job's events; it is cancelled when `stack` is closed. Clients share the queue by their keys, or
    addresses.
    """
    address = getattr(request.state, "key_name", "") or (request.client.host if request.client else "")
    submitted = stack.enter_async_context(worker.submit(job, client=address))
    try:
        return await while_connected(request, submitted, closing=request.app.state.closing)
    except ServerClosing:
        raise WorkerRefused(503, CLOSING, retry_after="5") from None


async def _messages(
    events: AsyncIterator[Event],
    to_record: EventToRecord,
    connection: AsyncExitStack,
    closing: threading.Event,
) -> AsyncIterator[ServerSentEvent]:
    """One message for each event that has a record. A client that disconnects closes the connection, which
    cancels the job. A server that ends sends an error as the last event.
    """
    async with connection:
        async for event in _until(closing, events):
            record = to_record(event)
            if record is not None:
                yield ServerSentEvent(record.model_dump_json(ensure_ascii=True), sep="\n")


async def _until(closing: threading.Event, events: AsyncIterator[Event]) -> AsyncIterator[Event]:
    """The events, or an error as the last one when `closing` is set."""
    pending: asyncio.Future[Event] | None = None
    try:
        while not closing.is_set():
            pending = pending or asyncio.ensure_future(anext(events))
            if (await asyncio.wait({pending}, timeout=CLOSING_SECONDS))[0]:
                yield pending.result()
                pending = None
        yield SteerError(status=503, detail=CLOSING)
    except StopAsyncIteration:
        return
    finally:
        if pending is not None and not pending.done():
            pending.cancel()
            await asyncio.gather(pending, return_exceptions=True)


async def _all(events: AsyncIterator[Event]) -> list[Event]:
    collected: list[Event] = []
    async for event in events:
        if isinstance(event, SteerError):
            retry_after = "1" if event.status == 503 else None
            raise WorkerRefused(event.status, event.detail, retry_after=retry_after)
        collected.append(event)
    return collected
