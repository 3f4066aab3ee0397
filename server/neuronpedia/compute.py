"""Neuronpedia's routes that run the model or read weights: `activation/new`, `activation/source`,
`search-all`, `search-topk-by-token`, `cossim`, `steer`.

Its own client sends some requests to an address with a slash at its end; both are taken.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from lexiscope.records import set_of
from server.dependencies import OpenStore, Worker
from server.errors import error_responses
from server.live import Intervention, SteerJob
from server.neuronpedia.readings import read_texts, search_all, source_activations, top_by_token
from server.neuronpedia.records import (
    ActivationSourceResponse,
    CosSimFeature,
    CosSimResponse,
    FeaturePlace,
    NewActivation,
    SearchAllBatch,
    SearchAllResponse,
    SearchTopKBatch,
    SearchTopKResponse,
    SteerCompletion,
)
from server.neuronpedia.requests import (
    ActivationNewRequest,
    ActivationSourceRequest,
    CosSimRequest,
    SearchAllRequest,
    SearchTopKRequest,
    SteerCompletionRequest,
)
from server.neuronpedia.steer_frames import SteerFrames
from server.openapi import REFERENCE, server_sent
from server.page_router import PageRouter
from server.requests_to_jobs import IndexedModel
from server.responses import json_response
from server.similar import similar_features
from server.worker_requests import CLIENT_CLOSED_REQUEST, collect, stream
from store import Store

ERRORS = error_responses(400, 404, 413, 415, 422, 429, 503, 504)
COSINES = 10

router = PageRouter()
Handler = TypeVar("Handler", bound=Callable[..., Any])


def _post(path: str, answer: Any, **given: Any) -> Callable[[Handler], Handler]:
    """A POST route at `path`, and at `path` with a slash at its end."""

    def add(handler: Handler) -> Handler:
        answers = {200: given.pop("answers"), **ERRORS} if "answers" in given else ERRORS
        router.add_api_route(path, handler, methods=["POST"], response_model=answer, responses=answers)
        router.add_api_route(f"{path}/", handler, methods=["POST"], include_in_schema=False)
        return handler

    return add


@_post("/api/activation/new", NewActivation | list[NewActivation])
async def activation_new(
    request: Request, body: ActivationNewRequest, store: OpenStore, worker: Worker
) -> Any:
    """Neuronpedia's shape: the activation of one feature at each token of a text, or of several texts."""

    def located() -> Any:
        model = IndexedModel(store, body.feature.modelId)
        return model.locate(model.feature(body.feature.id))

    follow = await run_in_threadpool(located)
    texts = body.customText if isinstance(body.customText, list) else [body.customText]
    read = await read_texts(request, store, worker, follow.feature.model, texts, follow=follow)
    if read is None:
        return CLIENT_CLOSED_REQUEST
    found = []
    for tokens, own in zip(read.tokens, read.followed, strict=True):
        skip = 1 if body.ignoreBos else 0
        values = [0.0, *own][skip:]
        found.append(
            NewActivation(
                tokens=tokens[skip:],
                values=values,
                maxValue=max(values),
                minValue=min(values),
                maxValueTokenIndex=values.index(max(values)),
                modelId=follow.feature.model,
                layer=follow.feature.source,
                index=str(follow.feature.index),
            )
        )
    return found if isinstance(body.customText, list) else found[0]


@_post("/api/activation/source", ActivationSourceResponse)
async def activation_source(
    request: Request, body: ActivationSourceRequest, store: OpenStore, worker: Worker
) -> Any:
    """Neuronpedia's shape: all features of one dictionary that are active on a text, and where."""
    texts = body.customText if isinstance(body.customText, list) else [body.customText]
    read = await read_texts(request, store, worker, body.modelId, texts, sources=[body.source])
    if read is None:
        return CLIENT_CLOSED_REQUEST
    return ActivationSourceResponse(results=[source_activations(read, n) for n in range(len(texts))])


@_post("/api/search-all", SearchAllResponse | SearchAllBatch)
async def search_all_route(request: Request, body: SearchAllRequest, store: OpenStore, worker: Worker) -> Any:
    """Neuronpedia's shape: the features of a set that are most active on a text, or on each of several."""
    texts = body.text if isinstance(body.text, list) else [body.text]
    sources = await run_in_threadpool(_selected, store, body)
    read = await read_texts(request, store, worker, body.modelId, texts, sources=sources)
    if read is None:
        return CLIENT_CLOSED_REQUEST
    found = [await run_in_threadpool(search_all, store, read, n, body) for n in range(len(texts))]
    return SearchAllBatch(results=found) if isinstance(body.text, list) else found[0]


def _selected(store: Store, body: SearchAllRequest) -> list[str]:
    """The dictionaries of a search, by layer."""
    model = IndexedModel(store, body.modelId)
    if body.selectedLayers:
        return list(dict.fromkeys(body.selectedLayers))
    places = [place for place in model.places.values() if set_of(place.source) == body.sourceSet]
    if not places:
        known = ", ".join(sorted({set_of(source) for source in model.places}))
        raise HTTPException(
            422, f"sourceSet: {body.modelId} has no set {body.sourceSet!r}; its sets are: {known}"
        )
    return [place.source for place in sorted(places, key=lambda place: place.layer)]


@_post("/api/search-topk-by-token", SearchTopKResponse | SearchTopKBatch)
async def search_topk_by_token(
    request: Request, body: SearchTopKRequest, store: OpenStore, worker: Worker
) -> Any:
    """Neuronpedia's shape: the most active features of each token of a text, or of several texts."""
    texts = body.text if isinstance(body.text, list) else [body.text]
    read = await read_texts(request, store, worker, body.modelId, texts, sources=[body.source])
    if read is None:
        return CLIENT_CLOSED_REQUEST
    found = [await run_in_threadpool(top_by_token, store, read, n, body) for n in range(len(texts))]
    return SearchTopKBatch(results=found) if isinstance(body.text, list) else found[0]


@_post("/api/cossim", CosSimResponse)
async def cossim(request: Request, body: CosSimRequest, store: OpenStore, worker: Worker) -> Any:
    """Neuronpedia's shape: the features of a dictionary with the highest decoder cosines to a feature."""
    if body.targetModelId != body.modelId:
        raise HTTPException(
            422,
            f"targetModelId: features of {body.modelId} and of {body.targetModelId} write to different "
            "residual streams, in which a cosine says nothing",
        )
    own = f"{body.modelId}/{body.source}/{int(body.index)}"
    found = await similar_features(request, store, worker, own, body.targetSourceId, limit=COSINES)
    if found is None:
        return CLIENT_CLOSED_REQUEST
    return CosSimResponse(
        feature=FeaturePlace(model=body.modelId, source=body.source, index=int(body.index)),
        topkDecoderCossimFeatures=[
            CosSimFeature(
                feature=FeaturePlace(model=one.model, source=one.source, index=one.index),
                cosineSimilarity=one.similarity,
            )
            for one in found
        ],
    )


FRAMES = {
    "content": {
        "text/event-stream": {
            "schema": server_sent(
                {"$ref": REFERENCE.format(model="SteerCompletion")},
                "with `stream`: server-sent events, each with both texts as far as they are written",
            )
        }
    }
}


@_post("/api/steer", SteerCompletion, answers=FRAMES)
async def steer(request: Request, body: SteerCompletionRequest, store: OpenStore, worker: Worker) -> Response:
    """Neuronpedia's shape: a prompt continued by the model, and with features added to the residual stream at
    every position after BOS.
    """
    job = await run_in_threadpool(_steer_job, store, body)
    frames = SteerFrames(body.prompt)
    if body.stream:
        return await stream(request, worker, job, frames.after)
    events = await collect(request, worker, job)
    if events is None:
        return CLIENT_CLOSED_REQUEST
    for event in events:
        frames.after(event)
    return json_response(frames.frame())


def _steer_job(store: Store, body: SteerCompletionRequest) -> SteerJob:
    model = IndexedModel(store, body.modelId)
    interventions = []
    for one in body.features:
        ref = model.feature(f"{one.modelId}/{one.layer}/{int(one.index)}")
        interventions.append(
            Intervention(
                **model.locate(ref).model_dump(),
                mode="add" if body.steer_method == "SIMPLE_ADDITIVE" else "component",
                unit="activation",
                strength=body.strength_multiplier * one.strength,
            )
        )
    weights = model.weights(one.feature.source for one in interventions)
    return SteerJob(
        model=body.modelId,
        model_path=weights.path,
        model_identity=weights.identity,
        interventions=interventions,
        prompt=body.prompt,
        spelled_bos=True,
        max_tokens=body.n_tokens,
        temperature=body.temperature,
        frequency_penalty=body.freq_penalty,
        seed=body.seed,
    )
