"""How a route asks the model worker on behalf of a client who may leave: streaming or whole, refusals with
their Retry-After.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

from fastapi import Request
from fastapi.responses import Response
from pydantic import BaseModel
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.exceptions import HTTPException

from server.live import WorkerClient, WorkerRefused, spawn_worker
from server.live.disconnect import Gone, while_connected
from server.live.messages import Event, Job
from server.live.records import SteerError

PING_SECONDS = 15
GONE = Response(status_code=499)
"""nobody reads it"""

Tell = Callable[[Event], BaseModel]
"""What the client is shown of one of the worker's events."""


def open_worker(request: Request) -> WorkerClient:
    """The worker the settings name; else the application's own, started here, ahead of its first job."""
    state = request.app.state
    if state.settings.worker_url:
        return WorkerClient(state.settings.worker_url)
    if state.worker is None:
        state.worker = spawn_worker(state.settings, wait=False)
    return WorkerClient(state.worker)


def client_of(request: Request) -> str:
    """Who shares the model with the others: an address."""
    return request.client.host if request.client else ""


async def stream(request: Request, worker: WorkerClient, job: Job, tell: Tell) -> Response:
    """The events as server-sent ones. Raises HTTPException before the first."""
    async with AsyncExitStack() as leaving:
        try:
            events = await while_connected(
                request, leaving.enter_async_context(worker.ask(job, client=client_of(request)))
            )
            return EventSourceResponse(
                _messages(events, tell, leaving.pop_all()), sep="\n", ping=PING_SECONDS
            )
        except WorkerRefused as refused:
            raise _http(refused) from refused
        except Gone:
            return GONE
    raise AssertionError("unreachable")


async def whole(request: Request, worker: WorkerClient, job: Job) -> list[Event] | None:
    """Every event; None when the client has gone. Raises HTTPException."""
    async with AsyncExitStack() as leaving:
        try:
            events = await while_connected(
                request, leaving.enter_async_context(worker.ask(job, client=client_of(request)))
            )
            return await while_connected(request, _all(events))
        except WorkerRefused as refused:
            raise _http(refused) from refused
        except Gone:
            return None
    raise AssertionError("unreachable")


def _http(refused: WorkerRefused) -> HTTPException:
    headers = {"retry-after": refused.retry_after} if refused.retry_after else None
    return HTTPException(refused.status, str(refused), headers)


async def _messages(
    events: AsyncIterator[Event], tell: Tell, connection: AsyncExitStack
) -> AsyncIterator[ServerSentEvent]:
    """Each event as one message; hanging up closes the worker's connection, which cancels the job."""
    async with connection:
        async for event in events:
            yield ServerSentEvent(tell(event).model_dump_json(), sep="\n")


async def _all(events: AsyncIterator[Event]) -> list[Event]:
    found: list[Event] = []
    async for event in events:
        if isinstance(event, SteerError):
            raise WorkerRefused(event.status, event.error, retry_after="1" if event.status == 503 else None)
        found.append(event)
    return found
