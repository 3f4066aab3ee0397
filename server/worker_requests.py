"""Submits jobs to the model worker on behalf of a client that may disconnect: as a stream, or all events at
once.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

from fastapi import Request
from fastapi.responses import Response
from pydantic import BaseModel
from sse_starlette import EventSourceResponse, ServerSentEvent

from lexiscope.records.live import SteerError
from server.live import WorkerClient, WorkerRefused
from server.live.disconnect import ClientDisconnected, while_connected
from server.live.messages import Event, Job

PING_SECONDS = 15
CLIENT_CLOSED_REQUEST = Response(status_code=499)
"""for a client that has disconnected and gets no response"""

EventToRecord = Callable[[Event], BaseModel | None]
"""Converts an event of the worker to the record that the client gets; None: the client gets nothing."""


async def stream(request: Request, worker: WorkerClient, job: Job, to_record: EventToRecord) -> Response:
    """The events as server-sent events. Raises WorkerRefused before the first."""
    async with AsyncExitStack() as stack:
        try:
            events = await _submit(request, worker, job, stack)
            messages = _messages(events, to_record, stack.pop_all())
            return EventSourceResponse(messages, sep="\n", ping=PING_SECONDS)
        except ClientDisconnected:
            return CLIENT_CLOSED_REQUEST
    raise AssertionError("unreachable")


async def collect(request: Request, worker: WorkerClient, job: Job) -> list[Event] | None:
    """All events of a job; None if the client has disconnected. Raises WorkerRefused."""
    async with AsyncExitStack() as stack:
        try:
            events = await _submit(request, worker, job, stack)
            return await while_connected(request, _all(events))
        except ClientDisconnected:
            return None
    raise AssertionError("unreachable")


async def _submit(
    request: Request, worker: WorkerClient, job: Job, stack: AsyncExitStack
) -> AsyncIterator[Event]:
    """The job's events; it is cancelled when `stack` is closed. Clients share the queue by their
    addresses.
    """
    address = request.client.host if request.client else ""
    submitted = stack.enter_async_context(worker.submit(job, client=address))
    return await while_connected(request, submitted)


async def _messages(
    events: AsyncIterator[Event], to_record: EventToRecord, connection: AsyncExitStack
) -> AsyncIterator[ServerSentEvent]:
    """One message for each event that has a record. A client that disconnects closes the connection, which
    cancels the job.
    """
    async with connection:
        async for event in events:
            record = to_record(event)
            if record is not None:
                yield ServerSentEvent(record.model_dump_json(), sep="\n")


async def _all(events: AsyncIterator[Event]) -> list[Event]:
    collected: list[Event] = []
    async for event in events:
        if isinstance(event, SteerError):
            retry_after = "1" if event.status == 503 else None
            raise WorkerRefused(event.status, event.detail, retry_after=retry_after)
        collected.append(event)
    return collected
