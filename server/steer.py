"""Live steering on the web: the page, `POST /api/v1/steer` and `/api/v1/steer/sweep`; names in, what the
model worker says out.
"""

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse, Response
from pydantic import BaseModel

from lexiscope.records import ErrorRecord
from server import attach_names
from server.live import WorkerClient
from server.live.messages import Event, RawMeasured
from server.live.records import (
    OFF_MANIFOLD,
    TYPICAL,
    Meant,
    SteerAnswer,
    SteerRequest,
    SteerResolved,
    SweepAnswer,
    SweepRequest,
    WorkerHealth,
)
from server.requests_to_jobs import steer_job, sweep_job
from server.worker_requests import GONE, open_worker, stream, whole
from store import Store

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorRecord} for status in (404, 422, 429, 503, 504)
}
EXAMPLES = (
    "The best thing about living here is",
    "When she opened the door, she saw",
    "In the morning they went to the",
)

router = APIRouter()


def open_store(request: Request) -> Store:
    store: Store = request.app.state.store
    return store


Index = Annotated[Store, Depends(open_store)]
Worker = Annotated[WorkerClient, Depends(open_worker)]


@router.get("/steer", include_in_schema=False, dependencies=[Depends(open_worker)])
def page(
    request: Request,
    store: Index,
    model: Annotated[str, Query(max_length=200)] = "",
    feature: Annotated[list[str], Query(max_length=32)] = [],  # noqa: B006 (FastAPI copies it)
    token: Annotated[list[str], Query(max_length=32)] = [],  # noqa: B006
    layer: int | None = None,
    prompt: Annotated[str, Query(max_length=20_000)] = "",
) -> HTMLResponse:
    """Steer by name: `feature` (ids) or `token` with `layer` fill the form in advance."""
    asked = [{"id": name} for name in feature] + [{"token": text, "layer": layer} for text in token]
    html = request.app.state.pages.html(
        "steer.html",
        models=store.home().models,
        prefill={
            "model": model or (feature[0].split("/")[0] if feature else ""),
            "prompt": prompt,
            "features": asked,
        },
        typical=TYPICAL,
        off_manifold=OFF_MANIFOLD,
        page=None,
        json_url="",
        path=request.url.path,
        charts={},
    )
    return HTMLResponse(html, headers={"cache-control": "no-store"})


@router.post("/api/v1/steer", response_model=SteerAnswer, responses=ERRORS)
async def steer(
    request: Request,
    body: SteerRequest,
    store: Index,
    worker: Worker,
    streamed: Annotated[bool, Query(alias="stream", description="false: one JSON answer at the end")] = True,
) -> Response:
    """Default and steered text of one prompt, side by side, as server-sent events: resolved, step, effect,
    step…, measured, done.
    """
    job, meant = await run_in_threadpool(steer_job, store, body)
    tell = Told(store, meant)
    if streamed:
        return await stream(request, worker, job, tell)
    events = await whole(request, worker, job)
    return GONE if events is None else await run_in_threadpool(_answer, SteerAnswer, events, tell)


@router.post("/api/v1/steer/sweep", response_model=SweepAnswer, responses=ERRORS)
async def sweep(request: Request, body: SweepRequest, store: Index, worker: Worker) -> Response:
    """The same steer at several strengths, in one batch with the unsteered row: a dose-response curve with
    its sweet spot.
    """
    job, meant = await run_in_threadpool(sweep_job, store, body)
    events = await whole(request, worker, job)
    return (
        GONE if events is None else await run_in_threadpool(_answer, SweepAnswer, events, Told(store, meant))
    )


@router.get("/api/v1/worker", response_model=WorkerHealth, responses=ERRORS)
async def health(worker: Worker) -> Response:
    """The model worker's queue, speed and memory."""
    return Response(
        (await worker.health()).model_dump_json(),
        media_type="application/json",
        headers={"cache-control": "no-store"},
    )


class Told:
    """What the client is shown of the worker's events: features by name, and what each intervention meant."""

    def __init__(self, store: Store, meant: list[Meant]) -> None:
        self._store = store
        self._meant = meant

    def __call__(self, event: Event) -> BaseModel:
        if isinstance(event, RawMeasured):
            return attach_names.measured(self._store, event)
        if isinstance(event, SteerResolved):
            return event.model_copy(
                update={"features": [one.feature for one in self._meant], "meant": self._meant}
            )
        return event


def _answer(record: type[BaseModel], events: Sequence[Event], tell: Told) -> Response:
    """The events that are a record's fields, the steps left out."""
    parts = {event.event: tell(event) for event in events if event.event in record.model_fields}
    return Response(record.model_validate(parts).model_dump_json(), media_type="application/json")
