"""What an operator's machines ask: `/healthz` (the process responds), `/readyz` (it can serve) and `/metrics`
(Prometheus). They are no part of the public interface; a proxy keeps `/metrics` to the lab's own network.
"""

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool

from server import metrics
from server.dependencies import OpenStore
from server.errors import error_responses
from server.live import WorkerClient

NO_STORE = {"cache-control": "no-store"}

router = APIRouter()


@router.get("/healthz")
async def healthz() -> JSONResponse:
    """The process responds; what it serves may be missing."""
    return JSONResponse({"ok": True}, headers=NO_STORE)


@router.get("/readyz", responses=error_responses(503, 504))
async def readyz(request: Request, store: OpenStore) -> JSONResponse:
    """The index can be read, in its folder or database, and the model worker responds. A worker of the
    server's own that no request has needed yet, or that is starting, is ready.
    """
    build = await run_in_threadpool(store.build_id)
    worker = "not started"
    client = _worker(request)
    if client is not None:
        await client.health()
        worker = "ready"
    elif request.app.state.worker is not None:
        worker = "starting"
    return JSONResponse({"ok": True, "build": build, "worker": worker}, headers=NO_STORE)


@router.get("/metrics", include_in_schema=False)
async def prometheus(request: Request) -> Response:
    """Requests by route and status, their seconds, and the worker's queue, in Prometheus's text format."""
    client = _worker(request)
    return Response(await metrics.exposition(client), media_type=metrics.CONTENT_TYPE, headers=NO_STORE)


def _worker(request: Request) -> WorkerClient | None:
    """The client of a worker that is there or should be; None where the first request will start one, or has
    just done so.
    """
    state = request.app.state
    if state.settings.worker_url:
        return WorkerClient(state.settings.worker_url, token=state.settings.worker_token)
    return WorkerClient(state.worker) if state.worker is not None and not state.worker.starting else None
