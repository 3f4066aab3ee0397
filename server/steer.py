"""Live steering on the web: the page, and `POST /api/v1/steer`, which resolves names to features and streams what the model worker says."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse, Response
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.exceptions import HTTPException

from lexiscope.records import (
    ErrorRecord,
    FeatureRef,
    Record,
    SteerDone,
    SteerEffect,
    SteerError,
    SteerFeature,
    SteerRequest,
    SteerResolved,
)
from server.live import Intervention, SteerJob, WorkerClient, WorkerRefused, spawn_worker
from server.live.disconnect import Gone, while_connected
from server.live.wire import Event
from store import NotFound, Store

ERRORS: dict[int | str, dict[str, Any]] = {status: {"model": ErrorRecord} for status in (404, 422, 429, 503)}
PING_SECONDS = 15

router = APIRouter()


class SteerAnswer(Record):
    """A whole steer at once: the stream's events but the steps."""

    resolved: SteerResolved
    effect: SteerEffect
    done: SteerDone


def open_store(request: Request) -> Store:
    store: Store = request.app.state.store
    return store


def open_worker(request: Request) -> WorkerClient:
    """The worker the settings name; else the application's own, started here, ahead of its first job."""
    state = request.app.state
    if state.settings.worker_url:
        return WorkerClient(state.settings.worker_url)
    if state.worker is None:
        state.worker = spawn_worker(state.settings, wait=False)
    return WorkerClient(state.worker)


@router.get("/steer", include_in_schema=False, dependencies=[Depends(open_worker)])
def page(
    request: Request,
    store: Annotated[Store, Depends(open_store)],
    model: Annotated[str, Query(max_length=200)] = "",
    feature: Annotated[list[str], Query(max_length=32)] = [],  # noqa: B006 (FastAPI copies it)
    token: Annotated[list[str], Query(max_length=32)] = [],  # noqa: B006
    layer: int | None = None,
    prompt: Annotated[str, Query(max_length=20_000)] = "",
) -> HTMLResponse:
    """Steer by name: `feature` (ids) or `token` with `layer` fill the form in advance."""
    asked = [SteerFeature(id=name) for name in feature] + [SteerFeature(token=text, layer=layer) for text in token]
    prefill = {
        "model": model or (feature[0].split("/")[0] if feature else ""),
        "prompt": prompt,
        "features": [one.model_dump() for one in asked],
    }
    html = request.app.state.pages.html(
        "steer.html", models=store.home().models, prefill=prefill, page=None, json_url="", path=request.url.path, charts={}
    )
    return HTMLResponse(html, headers={"cache-control": "no-store"})


@router.post("/api/v1/steer", response_model=SteerAnswer, responses=ERRORS)
async def steer(
    request: Request,
    body: SteerRequest,
    store: Annotated[Store, Depends(open_store)],
    worker: Annotated[WorkerClient, Depends(open_worker)],
    stream: Annotated[bool, Query(description="false: one JSON answer at the end")] = True,
) -> Response:
    """Default and steered text of one prompt, side by side, as server-sent events: resolved, step…, effect, step…, done or error."""
    job = await run_in_threadpool(resolve, store, body)
    async with AsyncExitStack() as leaving:
        try:
            events = await while_connected(request, leaving.enter_async_context(worker.steer(job)))
            if stream:
                return EventSourceResponse(_messages(events, leaving.pop_all()), sep="\n", ping=PING_SECONDS)
            return Response((await while_connected(request, _whole(events))).model_dump_json(), media_type="application/json")
        except WorkerRefused as refused:
            headers = {"retry-after": refused.retry_after} if refused.retry_after else None
            raise HTTPException(refused.status, str(refused), headers) from refused
        except Gone:
            return Response(status_code=499)
    raise AssertionError("unreachable")


def resolve(store: Store, asked: SteerRequest) -> SteerJob:
    """The job behind a request. Raises NotFound, saying what there is, and HTTPException 422 for a feature that is not named."""
    paths = store.model_paths()
    if asked.model not in paths:
        raise NotFound(f"there is no model {asked.model[:200]!r} in the index: it has {', '.join(sorted(paths)) or 'none'}")
    checkpoints = {(place.model, place.source): place.checkpoint_path for place in store.places()}
    interventions = []
    for one in asked.features:
        ref = _feature(store, asked.model, one)
        checkpoint = checkpoints[ref.model, ref.source]
        interventions.append(Intervention(feature=ref, checkpoint_path=checkpoint, mode=one.mode, strength=one.strength))
    return SteerJob(
        model=asked.model,
        model_path=paths[asked.model],
        interventions=interventions,
        prompt=asked.prompt,
        max_tokens=asked.max_tokens,
        temperature=asked.temperature,
        seed=asked.seed,
    )


def _feature(store: Store, model: str, asked: SteerFeature) -> FeatureRef:
    if (asked.id is None) == (asked.token is None):
        raise HTTPException(422, "name each feature either by `id` (model/source/index) or by `token`, with a `layer`")
    if asked.id is not None:
        ref = store.feature_refs([asked.id])[0]
        if ref.model != model:
            raise HTTPException(422, f"{ref.id} is a feature of {ref.model}, and the model to steer is {model}")
        return ref
    assert asked.token is not None
    named = store.resolve_token(model, asked.token, layer=asked.layer)
    if named.features:
        return named.features[0]
    elsewhere = sorted({ref.layer for ref in store.resolve_token(model, named.token.id).features})
    there_is = f"it names features at layers {', '.join(map(str, elsewhere))}" if elsewhere else "it names none at any other layer"
    where = "" if asked.layer is None else f" at layer {asked.layer}"
    raise NotFound(f"no feature of {model} is named {named.token.shown}{where}: {there_is}")


async def _messages(events: AsyncIterator[Event], connection: AsyncExitStack) -> AsyncIterator[ServerSentEvent]:
    """Each event as one message; hanging up closes the worker's connection, which cancels the generation."""
    async with connection:
        async for event in events:
            yield ServerSentEvent(event.model_dump_json(), sep="\n")


async def _whole(events: AsyncIterator[Event]) -> SteerAnswer:
    parts: dict[str, Event] = {}
    async for event in events:
        if isinstance(event, SteerError):
            raise WorkerRefused(event.status, event.error)
        parts[event.event] = event
    return SteerAnswer.model_validate({name: parts[name] for name in ("resolved", "effect", "done")})
