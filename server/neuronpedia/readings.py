"""Texts read by dictionaries, in Neuronpedia's words. Positions are counted from BOS, which is at 0 and has
no activation.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from fastapi import Request
from fastapi.concurrency import run_in_threadpool

from lexiscope.records import FeatureRef
from server.attach_names import LOOKUP_SIZE, refs_by_id
from server.live import LocatedFeature, ReadJob, WorkerClient
from server.live.messages import RawReadDone, RawReadLayer, RawReadTokens
from server.neuronpedia.features import brief_feature, plain_texts
from server.neuronpedia.records import (
    SearchAllResponse,
    SearchAllResult,
    SearchTopKResponse,
    SourceActivations,
    TopFeature,
    TopFeatures,
)
from server.neuronpedia.requests import SearchAllRequest, SearchTopKRequest
from server.requests_to_jobs import IndexedModel, dictionary_path
from server.worker_requests import collect
from store import Store


class ReadTexts(NamedTuple):
    """Several texts, read by several dictionaries."""

    model: str
    tokens: list[list[str]]
    """each text's tokens, BOS first"""
    layers: list[list[RawReadLayer]]
    """for each text, the reading by each dictionary"""
    followed: list[list[float]]
    """for each text, the followed feature's activation at each token, BOS left out"""


async def read_texts(
    request: Request,
    store: Store,
    worker: WorkerClient,
    model: str,
    texts: Sequence[str],
    *,
    sources: Sequence[str] = (),
    follow: LocatedFeature | None = None,
) -> ReadTexts | None:
    """None if the client has disconnected. Raises NotFound, WorkerRefused and HTTPException."""

    def prepared() -> ReadJob:
        indexed = IndexedModel(store, model)
        places = indexed.reading_places(sources, None) if sources else []
        used = [place.source for place in places] or ([follow.feature.source] if follow else [])
        weights = indexed.weights(used)
        return ReadJob(
            model=model,
            model_path=weights.path,
            model_identity=weights.identity,
            texts=list(texts),
            spelled_bos=True,
            sources=[dictionary_path(place) for place in places],
            follow=follow,
        )

    events = await collect(request, worker, await run_in_threadpool(prepared))
    if events is None:
        return None
    [read] = [event for event in events if isinstance(event, RawReadTokens)]
    [last] = [event for event in events if isinstance(event, RawReadDone)]
    return ReadTexts(
        model,
        [plain_texts([read.bos, *tokens]) for tokens in read.texts],
        [
            [event for event in events if isinstance(event, RawReadLayer) and event.text == number]
            for number in range(len(texts))
        ],
        last.followed or [],
    )


def source_activations(read: ReadTexts, number: int) -> SourceActivations:
    """One text under the dictionary it was read by, features by index."""
    [raw] = read.layers[number]
    active = _by_feature(raw)
    return SourceActivations(
        tokens=read.tokens[number], activeFeatures={str(index): active[index] for index in sorted(active)}
    )


def search_all(store: Store, read: ReadTexts, number: int, body: SearchAllRequest) -> SearchAllResponse:
    """The most active features of one text."""
    tokens, wanted_at = read.tokens[number], frozenset(body.sortIndexes)
    ranked: list[tuple[float, str, list[tuple[int, float]]]] = []
    for raw in read.layers[number]:
        for index, places in _by_feature(raw).items():
            wanted = [value for position, value in places if position in wanted_at]
            score = sum(wanted) if wanted_at else max(value for _, value in places)
            if score > 0:
                ranked.append((score, f"{read.model}/{raw.source}/{index}", places))
    ranked.sort(key=lambda one: (-one[0], one[1]))
    result: list[SearchAllResult] = []
    for start in range(0, len(ranked), LOOKUP_SIZE):
        some = ranked[start : start + LOOKUP_SIZE]
        refs = refs_by_id(store, [feature_id for _, feature_id, _ in some])
        for _, feature_id, places in some:
            if len(result) < body.numResults and _sparse(refs[feature_id], body.densityThreshold):
                result.append(_search_result(refs[feature_id], places, len(tokens)))
        if len(result) == body.numResults:
            break
    counts = [[0, *map(len, raw.indices)] for raw in read.layers[number]]
    return SearchAllResponse(tokens=tokens, result=result, counts=counts, sortIndexes=body.sortIndexes)


def _search_result(ref: FeatureRef, places: list[tuple[int, float]], length: int) -> SearchAllResult:
    values = [0.0] * length
    for position, value in places:
        values[position] = value
    return SearchAllResult(
        modelId=ref.model,
        layer=ref.source,
        index=str(ref.index),
        values=values,
        maxValue=max(values),
        maxValueIndex=values.index(max(values)),
        neuron=brief_feature(ref),
    )


def top_by_token(store: Store, read: ReadTexts, number: int, body: SearchTopKRequest) -> SearchTopKResponse:
    """The most active features of each token of one text."""
    [raw] = read.layers[number]
    refs = refs_by_id(store, _ids(read.model, raw))
    indices, values = [[], *raw.indices], [[], *raw.values]
    results = []
    for position, token in enumerate(read.tokens[number]):
        if position == 0 and body.ignoreBos:
            continue
        active = [
            (refs[f"{read.model}/{raw.source}/{index}"], value)
            for index, value in zip(indices[position], values[position], strict=True)
        ]
        kept = [(ref, value) for ref, value in active if _sparse(ref, body.densityThreshold)]
        results.append(
            TopFeatures(
                position=position,
                token=token,
                isSpecial=position == 0,
                topFeatures=[
                    TopFeature(activationValue=value, featureIndex=ref.index, feature=brief_feature(ref))
                    for ref, value in kept[: body.numResults]
                ],
            )
        )
    return SearchTopKResponse(source=body.source, results=results)


def _by_feature(raw: RawReadLayer) -> dict[int, list[tuple[int, float]]]:
    """{feature: its positions and activations}"""
    active: dict[int, list[tuple[int, float]]] = {}
    for position, (indices, values) in enumerate(zip(raw.indices, raw.values, strict=True), start=1):
        for index, value in zip(indices, values, strict=True):
            active.setdefault(index, []).append((position, value))
    return active


def _ids(model: str, raw: RawReadLayer) -> Iterable[str]:
    return (f"{model}/{raw.source}/{index}" for indices in raw.indices for index in indices)


def _sparse(ref: FeatureRef, threshold: float) -> bool:
    """Whether a feature's density is at most a threshold; -1 and 0 are no threshold."""
    return threshold <= 0 or ref.density <= threshold
