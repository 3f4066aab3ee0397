"""Neuronpedia's routes that read the index: `feature`, `features`, `activation/get`."""

from typing import Annotated

from fastapi import Body, Request
from fastapi.responses import Response

from server.dependencies import OpenBuild, OpenStore
from server.errors import error_responses
from server.neuronpedia.features import activations, neuronpedia_feature
from server.neuronpedia.records import NeuronpediaActivation, NeuronpediaFeature
from server.neuronpedia.requests import MAX_FEATURES, ActivationGetRequest, FeaturesItem
from server.page_router import PageRouter
from server.pages import FeatureIndex, ModelId, SourceName
from server.responses import indexed_json, not_modified

ERRORS = error_responses(400, 404, 413, 415, 422, 503)

router = PageRouter()


@router.get(
    "/api/feature/{model}/{source}/{index:number}",
    response_model=NeuronpediaFeature,
    responses=error_responses(404, 503),
)
def feature(
    request: Request, store: OpenBuild, model: ModelId, source: SourceName, index: FeatureIndex
) -> Response:
    """Neuronpedia's shape: one feature with its logits, histogram and contexts, and its name as an
    explanation.
    """
    if cached := not_modified(request):
        return cached
    page = store.feature(model, source, index)
    record = neuronpedia_feature(page, store.dictionary_entry(model, source))
    return indexed_json(request, record, build=page.build)


@router.post("/api/features", response_model=list[NeuronpediaFeature], responses=ERRORS)
def features(
    store: OpenStore, body: Annotated[list[FeaturesItem], Body(max_length=MAX_FEATURES)]
) -> list[NeuronpediaFeature]:
    """Neuronpedia's shape: features by their ids, in the order of the ids."""
    return [
        neuronpedia_feature(
            store.feature(one.modelId, one.layer, int(one.index)),
            store.dictionary_entry(one.modelId, one.layer),
            contexts=one.maxActsToReturn,
        )
        for one in body
    ]


@router.post("/api/activation/get", response_model=list[NeuronpediaActivation], responses=ERRORS)
def activation_get(store: OpenStore, body: ActivationGetRequest) -> list[NeuronpediaActivation]:
    """Neuronpedia's shape: the contexts of one feature, the strongest first."""
    page = store.feature(body.modelId, body.source, int(body.index))
    return activations(page.feature, store.dictionary_entry(body.modelId, body.source).corpus)
