"""Steering on the web: the page, `POST /api/v1/steer`, `POST /api/v1/steer/sweep`, and the worker's
health.
"""

from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Annotated

from fastapi import Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import BaseModel, Field, ValidationError

from lexiscope.foreign_json import parse_json
from lexiscope.records.live import ResolvedFeature, SteerResolved, SteerResponse, SweepResponse, WorkerHealth
from lexiscope.records.requests import OFF_MANIFOLD, TYPICAL, FeatureId, SteerRequest, SweepRequest
from server.attach_names import named_measured
from server.dependencies import OpenStore, Worker
from server.errors import error_responses, unknown_model
from server.live.messages import Event, RawSteerMeasured
from server.openapi import EVENT_STREAM
from server.page_router import PageRouter
from server.pages import FormText
from server.requests_to_jobs import steer_job, sweep_job
from server.responses import PageContent, json_response, respond
from server.worker_requests import CLIENT_CLOSED_REQUEST, EventToRecord, collect, stream
from store import Store

MOST_TOKENS = 256
"""new tokens that a request may ask for"""
CONTEXT_LENGTH = ("max_position_embeddings", "n_positions", "n_ctx")
"""what config.json calls the length of the context"""
ERRORS = error_responses(400, 404, 413, 415, 422, 429, 503, 504)

router = PageRouter()


class SteerQuery(BaseModel):
    """The content of the form when the page opens."""

    model: str = Field("", max_length=200)
    feature: list[FeatureId] = Field([], max_length=32, description="ids")
    token: list[Annotated[str, Field(max_length=200)]] = Field(
        [], max_length=32, description="texts or ids of tokens"
    )
    layer: int | None = Field(None, description="layer of the tokens")
    prompt: FormText = ""
    chat: bool = False
    state: str = Field(
        "",
        max_length=60_000,
        description="a SteerRequest as JSON: the whole form; the others are not read",
    )

    def restored(self) -> SteerRequest | None:
        """The request in `state`. Raises RequestValidationError."""
        try:
            return SteerRequest.model_validate_json(self.state) if self.state else None
        except ValidationError as error:
            found = [{**one, "type": "state", "loc": ("state", *one["loc"])} for one in error.errors()]
            raise RequestValidationError(found) from error


@router.page("/steer", None, navigation="Steer")
def page(
    request: Request,
    store: OpenStore,
    worker: Worker,
    query: Annotated[SteerQuery, Query()],
) -> Response:
    """The form, filled in from the address."""
    state = query.restored()
    features = [{"id": feature_id} for feature_id in query.feature]
    tokens = [{"token": token, "layer": query.layer} for token in query.token]
    model = query.model or (query.feature[0].split("/")[0] if query.feature else "")
    if state is not None:
        model = state.model
    models = store.home().models
    known = [entry.model for entry in models]
    failure = unknown_model(model, known) if model and known and model not in known else ""
    layers = {
        entry.model: [
            {"layer": layer.layer, "source": layer.source, "k": layer.k if layer.every_k else 0}
            for layer in entry.layers
        ]
        for entry in models
    }
    context = {
        "models": models,
        "layers": layers,
        "form": {
            "model": model,
            "prompt": query.prompt,
            "chat": query.chat,
            "state": None if state is None else state.model_dump(mode="json", exclude_unset=True),
            "features": [*features, *tokens],
        },
        "typical": TYPICAL,
        "off_manifold": OFF_MANIFOLD,
        "most_tokens": most_tokens(store.model_paths().get(model or (known[0] if known else ""), "")),
        "failure": failure,
    }
    response = respond(request, PageContent(None, "steer.html", context=context))
    response.status_code = 404 if failure else 200
    return response


@lru_cache(64)
def most_tokens(model_path: str) -> int:
    """New tokens that fit into the model's context after a prompt of one token; MOST_TOKENS at most, and
    where the model's files do not say.
    """
    try:
        config = parse_json((Path(model_path) / "config.json").read_bytes())
        lengths = [config[name] for name in CONTEXT_LENGTH if isinstance(config.get(name), int)]
    except (OSError, ValueError, TypeError, AttributeError):
        lengths = []
    return max(min([MOST_TOKENS, *(length - 2 for length in lengths)]), 1)


@router.post(
    "/api/v1/steer", response_model=SteerResponse, responses={200: {"content": EVENT_STREAM}, **ERRORS}
)
async def steer(
    request: Request,
    body: SteerRequest,
    store: OpenStore,
    worker: Worker,
    streamed: Annotated[
        bool, Query(alias="stream", description="false: one JSON response at the end")
    ] = True,
) -> Response:
    """The default and the steered text of one prompt, as server-sent events: resolved, step, effect, step…,
    measured, done. An error event may end them at any point.
    """
    job, features = await run_in_threadpool(steer_job, store, body)
    to_record = partial(_named, store, features)
    if streamed:
        return await stream(request, worker, job, to_record)
    events = await collect(request, worker, job)
    if events is None:
        return CLIENT_CLOSED_REQUEST
    return await run_in_threadpool(_response, SteerResponse, events, to_record)


@router.post("/api/v1/steer/sweep", response_model=SweepResponse, responses=ERRORS)
async def sweep(request: Request, body: SweepRequest, store: OpenStore, worker: Worker) -> Response:
    """The same interventions at several strengths, in one batch with the unsteered row: a dose-response curve
    and its sweet spot.
    """
    job, features = await run_in_threadpool(sweep_job, store, body)
    events = await collect(request, worker, job)
    if events is None:
        return CLIENT_CLOSED_REQUEST
    return await run_in_threadpool(_response, SweepResponse, events, partial(_named, store, features))


@router.get("/api/v1/worker", response_model=WorkerHealth, responses=error_responses(503))
async def health(worker: Worker) -> Response:
    """The model worker's queue, speed and memory."""
    return json_response(await worker.health())


def _named(store: Store, features: list[ResolvedFeature], event: Event) -> BaseModel:
    """An event with the names of its features."""
    if isinstance(event, RawSteerMeasured):
        return named_measured(store, event)
    if isinstance(event, SteerResolved):
        return event.model_copy(update={"features": [one.feature for one in features], "meant": features})
    return event


def _response(record: type[BaseModel], events: Sequence[Event], to_record: EventToRecord) -> Response:
    """One record whose fields are events; events that are not among its fields are left out."""
    fields = {event.event: to_record(event) for event in events if event.event in record.model_fields}
    return json_response(record.model_validate(fields))
