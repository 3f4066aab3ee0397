"""Similar features: those whose directions have the highest cosines to a feature's, in any dictionary of its
model.
"""

from typing import Annotated

from fastapi import Query, Request
from fastapi.concurrency import contextmanager_in_threadpool, run_in_threadpool
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from lexiscope.records import Neighbour, SimilarFeatures
from server.attach_names import refs_by_id
from server.dependencies import OpenBuild, Worker
from server.errors import error_responses
from server.live import SimilarJob, WorkerClient
from server.live.messages import RawSimilar
from server.page_router import API, PageRouter
from server.pages import FeatureIndex, ModelId, SourceName
from server.requests_to_jobs import IndexedModel, dictionary_path
from server.responses import indexed_json, not_modified
from server.worker_requests import CLIENT_CLOSED_REQUEST, collect
from store import NotFound, Store

router = PageRouter()


@router.get(
    f"{API}/features/{{model}}/{{source}}/{{index:number}}/similar",
    response_model=SimilarFeatures,
    responses=error_responses(404, 422, 429, 503, 504),
)
async def similar(
    request: Request,
    store: OpenBuild,
    worker: Worker,
    model: ModelId,
    source: SourceName,
    index: FeatureIndex,
    to: Annotated[
        str,
        Query(max_length=200, description="the dictionary to look in, `<layer>-<set>`; its own unless given"),
    ] = "",
    limit: Annotated[int, Query(ge=1, le=100)] = 10,
) -> Response:
    """The features of a dictionary whose decoder directions have the highest cosines to a feature's; computed
    from the weights.
    """
    if cached := await run_in_threadpool(not_modified, request):
        return cached
    own = f"{model}/{source}/{index}"
    async with contextmanager_in_threadpool(store.held()) as held:
        found = await similar_features(request, held, worker, own, to or source, limit=limit)
        build = await run_in_threadpool(held.build_id)
    if found is None:
        return CLIENT_CLOSED_REQUEST
    return indexed_json(request, SimilarFeatures(build=build, id=own, features=found))


async def similar_features(
    request: Request, store: Store, worker: WorkerClient, feature_id: str, source: str, *, limit: int
) -> list[Neighbour] | None:
    """None if the client has disconnected. Raises NotFound, WorkerRefused and HTTPException."""

    def prepared() -> SimilarJob:
        model = IndexedModel(store, feature_id.partition("/")[0])
        if source not in model.places:
            known = ", ".join(sorted(model.places))
            raise NotFound(f"{model.model} has no dictionary {source!r}; its dictionaries are: {known}")
        ref = model.feature(feature_id)
        if ref.row:
            raise HTTPException(422, f"{ref.id} is the direction of a token, not a feature")
        target = dictionary_path(model.with_weights(source))
        return SimilarJob(feature=model.locate(ref), source=target, limit=limit)

    job = await run_in_threadpool(prepared)
    events = await collect(request, worker, job)
    if events is None:
        return None
    [found] = [event for event in events if isinstance(event, RawSimilar)]
    ids = [f"{job.feature.feature.model}/{source}/{index}" for index in found.indices]
    refs = await run_in_threadpool(refs_by_id, store, ids)
    return [
        Neighbour(**dict(refs[feature_id]), similarity=cosine)
        for feature_id, cosine in zip(ids, found.cosines, strict=True)
    ]
