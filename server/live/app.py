"""The worker's HTTP face, on a local socket: `POST /steer`, `GET /healthz` (see `server.live.wire`)."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from lexiscope.records import ErrorRecord, SteerError
from lexiscope.settings import Settings
from server.live.disconnect import Gone, while_connected
from server.live.generation import steer
from server.live.shelf import Shelf
from server.live.turns import QueueFull, Turns
from server.live.wire import Event, Health, SteerJob

RETRY_AFTER = 5
"""seconds; about one generation"""


def create_worker_app(settings: Settings) -> FastAPI:
    """The worker: one shelf of models, one generation at a time."""
    app = FastAPI(title="Lexiscope model worker", docs_url=None, redoc_url=None)
    turns, shelf = Turns(queue=settings.worker_queue), Shelf()
    app.state.turns, app.state.shelf = turns, shelf

    @app.get("/healthz")
    async def healthz() -> Health:
        return Health(
            running=turns.jobs > 0,
            waiting=max(turns.jobs - 1, 0),
            queue=turns.queue,
            served=turns.served,
            tokens_per_second=turns.tokens_per_second,
            models=shelf.models,
        )

    @app.post("/steer")
    async def post_steer(request: Request, job: SteerJob) -> Response:
        async with AsyncExitStack() as leaving:
            try:
                events = await leaving.enter_async_context(turns.turn(lambda cancelled: steer(job, shelf, cancelled=cancelled)))
                first = await while_connected(request, _first(events))
            except QueueFull:
                wait = f"{turns.queue} requests already wait for the model: try again in {RETRY_AFTER} seconds."
                return _error(429, wait, {"retry-after": str(RETRY_AFTER)})
            except Gone:
                return Response(status_code=499)
            if isinstance(first, SteerError):
                return _error(first.status, first.error)
            return StreamingResponse(_lines(first, events, leaving.pop_all()), media_type="application/x-ndjson")
        raise AssertionError("unreachable")

    return app


async def _first(events: AsyncIterator[Event]) -> Event:
    return await anext(events)


async def _lines(first: Event, events: AsyncIterator[Event], turn: AsyncExitStack) -> AsyncIterator[str]:
    """One event a line. The turn ends with it, also when the client hangs up."""
    try:
        yield first.model_dump_json() + "\n"
        async for event in events:
            yield event.model_dump_json() + "\n"
    finally:
        await asyncio.shield(turn.aclose())


def _error(status: int, error: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse(ErrorRecord(status=status, error=error).model_dump(), status, headers)
