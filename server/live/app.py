"""The worker's HTTP interface: `POST /steer`, `/sweep`, `/read`, `/similar`, `GET /healthz` (see
`server.live.messages`).
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import torch
from fastapi import FastAPI, Header, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response, StreamingResponse

from lexiscope.records import ErrorRecord
from lexiscope.records.live import SteerError, WorkerHealth
from lexiscope.settings import Settings
from server.live import problems
from server.live.access import IndexedFiles, TokenRequired
from server.live.disconnect import ClientDisconnected, while_connected
from server.live.jobs import match, read, similar, steer, sweep
from server.live.messages import Event, Job, MatchJob, ReadJob, SimilarJob, SteerJob, SweepJob
from server.live.model_cache import ModelCache
from server.live.queue import QueueFull
from server.live.scheduler import Scheduler, StartJob
from store import StoreError


def create_worker_app(settings: Settings, *, on_tcp: bool = False) -> FastAPI:
    """The worker: one model cache and one scheduler.

    A socket's file lets only this user in. On TCP every request needs the settings' token, and only models
    and dictionaries of the index are opened.
    """
    app = FastAPI(title="Lexiscope model worker", docs_url=None, redoc_url=None, openapi_url=None)
    problems.install(app)
    if on_tcp:
        app.add_middleware(TokenRequired, token=settings.worker_token)
    indexed = IndexedFiles(settings) if on_tcp else None
    scheduler = Scheduler(
        queue=settings.worker_queue, rows=2 * settings.worker_batch, seconds=settings.worker_seconds
    )
    cache = ModelCache(
        memory=settings.worker_memory,
        device=settings.worker_device or None,
        dtype=torch.bfloat16 if settings.worker_dtype == "bfloat16" else torch.float32,
    )

    @app.get("/healthz", response_model=WorkerHealth)
    async def healthz() -> WorkerHealth | Response:
        if scheduler.stalled:
            return problems.problem(ErrorRecord(status=503, detail="A pass of the model does not return."))
        return WorkerHealth(
            running=scheduler.running,
            waiting=len(scheduler.queue),
            queue=scheduler.queue.bound,
            served=scheduler.served,
            tokens_per_second=scheduler.tokens_per_second,
            models=cache.models,
            memory_bytes=cache.n_bytes,
            device=str(cache.device),
        )

    async def respond(request: Request, job: Job, client: str, rows: int, start: StartJob) -> Response:
        try:
            if indexed is not None and not await run_in_threadpool(indexed.has_all, job):
                refused = "The request names a model or a dictionary that is not in the worker's index."
                return problems.problem(ErrorRecord(status=403, detail=refused))
        except StoreError as error:
            return problems.problem(ErrorRecord(status=503, detail=error.public))
        async with AsyncExitStack() as stack:
            try:
                events = await stack.enter_async_context(scheduler.submit(start, client=client, rows=rows))
                first = await while_connected(request, _first(events))
            except QueueFull:
                return _busy(scheduler)
            except ClientDisconnected:
                return Response(status_code=499)
            if isinstance(first, SteerError):
                return problems.problem(ErrorRecord(status=first.status, detail=first.detail))
            lines = _lines(first, events, stack.pop_all())
            return StreamingResponse(lines, media_type="application/x-ndjson")
        raise AssertionError("unreachable")

    @app.post("/steer")
    async def post_steer(request: Request, job: SteerJob, lexiscope_client: str = Header("")) -> Response:
        return await respond(
            request,
            job,
            lexiscope_client,
            2,
            lambda batches, cancelled: steer(job, cache, batches, cancelled=cancelled),
        )

    @app.post("/sweep")
    async def post_sweep(request: Request, job: SweepJob, lexiscope_client: str = Header("")) -> Response:
        return await respond(
            request,
            job,
            lexiscope_client,
            1 + len(job.strengths),
            lambda batches, cancelled: sweep(job, cache, batches, cancelled=cancelled),
        )

    @app.post("/read")
    async def post_read(request: Request, job: ReadJob, lexiscope_client: str = Header("")) -> Response:
        return await respond(
            request,
            job,
            lexiscope_client,
            1,
            lambda batches, cancelled: read(job, cache, cancelled=cancelled),
        )

    @app.post("/similar")
    async def post_similar(request: Request, job: SimilarJob, lexiscope_client: str = Header("")) -> Response:
        return await respond(
            request, job, lexiscope_client, 1, lambda batches, cancelled: similar(job, cache)
        )

    @app.post("/match")
    async def post_match(request: Request, job: MatchJob, lexiscope_client: str = Header("")) -> Response:
        return await respond(
            request,
            job,
            lexiscope_client,
            1,
            lambda batches, cancelled: match(job, cache, cancelled=cancelled),
        )

    return app


async def _first(events: AsyncIterator[Event]) -> Event:
    return await anext(events)


async def _lines(first: Event, events: AsyncIterator[Event], stack: AsyncExitStack) -> AsyncIterator[str]:
    """One event a line; a reader may take any line separator of Unicode for its end, so they are escaped. The
    job ends with the response, also if the client disconnects.
    """
    try:
        yield first.model_dump_json(ensure_ascii=True) + "\n"
        async for event in events:
            yield event.model_dump_json(ensure_ascii=True) + "\n"
    finally:
        await asyncio.shield(stack.aclose())


def _busy(scheduler: Scheduler) -> Response:
    seconds = scheduler.retry_after
    detail = (
        f"The model is busy: {len(scheduler.queue)} requests are waiting. Try again in {seconds} seconds."
    )
    return problems.problem(ErrorRecord(status=429, detail=detail), {"retry-after": str(seconds)})
