"""The worker's HTTP face, on a local socket: `POST /steer`, `/sweep`, `/read`, `GET /healthz` (see
`server.live.messages`).
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import torch
from fastapi import FastAPI, Header, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from lexiscope.records import ErrorRecord
from lexiscope.settings import Settings
from server.live.disconnect import Gone, while_connected
from server.live.engine import Engine, Run
from server.live.generation import steer
from server.live.messages import Event, Health, ReadJob, SteerJob, SweepJob
from server.live.model_cache import Shelf
from server.live.queue import QueueFull
from server.live.reading import read
from server.live.records import SteerError
from server.live.sweep import sweep


def create_worker_app(settings: Settings) -> FastAPI:
    """The worker: one shelf of models, one engine that uses them."""
    app = FastAPI(title="Lexiscope model worker", docs_url=None, redoc_url=None)
    engine = Engine(
        queue=settings.worker_queue, rows=2 * settings.worker_batch, seconds=settings.worker_seconds
    )
    shelf = Shelf(
        memory=settings.worker_memory,
        device=settings.worker_device or None,
        dtype=torch.bfloat16 if settings.worker_dtype == "bfloat16" else torch.float32,
    )
    app.state.engine, app.state.shelf = engine, shelf

    @app.get("/healthz")
    async def healthz() -> Health:
        return Health(
            running=engine.running,
            waiting=len(engine.queue),
            queue=engine.queue.bound,
            served=engine.served,
            tokens_per_second=engine.tokens_per_second,
            models=shelf.models,
            memory_bytes=shelf.used,
            device=str(shelf.device),
        )

    async def answer(request: Request, client: str, rows: int, run: Run) -> Response:
        async with AsyncExitStack() as leaving:
            try:
                events = await leaving.enter_async_context(engine.ask(run, client=client, rows=rows))
                first = await while_connected(request, _first(events))
            except QueueFull:
                wait = engine.retry_after
                say = f"The model is busy: {len(engine.queue)} requests wait for it. Try again in {wait} seconds."
                return _error(429, say, {"retry-after": str(wait)})
            except Gone:
                return Response(status_code=499)
            if isinstance(first, SteerError):
                return _error(first.status, first.error)
            return StreamingResponse(
                _lines(first, events, leaving.pop_all()), media_type="application/x-ndjson"
            )
        raise AssertionError("unreachable")

    @app.post("/steer")
    async def post_steer(request: Request, job: SteerJob, lexiscope_client: str = Header("")) -> Response:
        return await answer(
            request,
            lexiscope_client,
            2,
            lambda batches, cancelled: steer(job, shelf, batches, cancelled=cancelled),
        )

    @app.post("/sweep")
    async def post_sweep(request: Request, job: SweepJob, lexiscope_client: str = Header("")) -> Response:
        return await answer(
            request,
            lexiscope_client,
            1 + len(job.strengths),
            lambda batches, cancelled: sweep(job, shelf, batches, cancelled=cancelled),
        )

    @app.post("/read")
    async def post_read(request: Request, job: ReadJob, lexiscope_client: str = Header("")) -> Response:
        return await answer(
            request, lexiscope_client, 1, lambda batches, cancelled: read(job, shelf, cancelled=cancelled)
        )

    return app


async def _first(events: AsyncIterator[Event]) -> Event:
    return await anext(events)


async def _lines(first: Event, events: AsyncIterator[Event], turn: AsyncExitStack) -> AsyncIterator[str]:
    """One event a line. The request's turn ends with it, also when the client hangs up."""
    try:
        yield first.model_dump_json() + "\n"
        async for event in events:
            yield event.model_dump_json() + "\n"
    finally:
        await asyncio.shield(turn.aclose())


def _error(status: int, error: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse(ErrorRecord(status=status, error=error).model_dump(), status, headers)
