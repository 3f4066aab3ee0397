"""REST beside the pages: lists of dictionaries, features and tokens, from what the pages read."""

from typing import Annotated

from fastapi import Query, Request
from fastapi.responses import Response
from pydantic import Field
from starlette.exceptions import HTTPException

from lexiscope.records import (
    DictionaryList,
    FeatureBatch,
    FeatureList,
    FilteredFeatures,
    ModelSummary,
    TokenList,
)
from server.dependencies import OpenBuild
from server.errors import error_responses
from server.page_router import API, PageRouter
from server.pages import DictionaryQuery, EveryQuery, ModelId, SourceName
from server.responses import indexed_json, not_modified
from store import NotFound

MAX_IDS = 64
"""features that the store looks up in one query"""

router = PageRouter()


@router.get(f"{API}/models/{{model}}", response_model=ModelSummary, responses=error_responses(404, 503))
def model(request: Request, store: OpenBuild, model: ModelId) -> Response:
    """One model and its dictionaries."""
    if cached := not_modified(request):
        return cached
    home = store.home()
    models = {entry.model: entry for entry in home.models}
    if model not in models:
        raise NotFound(f"there is no model {model!r}: the index holds {', '.join(models) or 'none'}")
    return indexed_json(request, models[model], build=home.build)


@router.get(f"{API}/dictionaries", response_model=DictionaryList, responses=error_responses(404, 503))
def dictionaries(request: Request, store: OpenBuild) -> Response:
    """Every dictionary, in one line each."""
    if cached := not_modified(request):
        return cached
    home = store.home()
    layers = [layer for entry in home.models for layer in entry.layers]
    return indexed_json(request, DictionaryList(build=home.build, dictionaries=layers))


@router.get(
    f"{API}/dictionaries/{{model}}/{{source}}/features",
    response_model=FeatureList,
    responses=error_responses(400, 404, 503),
)
def features_of_dictionary(
    request: Request,
    store: OpenBuild,
    model: ModelId,
    source: SourceName,
    query: Annotated[DictionaryQuery, Query()],
) -> Response:
    """A dictionary's features, filtered and sorted; `next` is the `cursor` of the next page."""
    if cached := not_modified(request):
        return cached
    page = store.dictionary_page(model, source, query.filters())
    return indexed_json(
        request, FeatureList(**{name: getattr(page, name) for name in FeatureList.model_fields})
    )


class FeaturesQuery(EveryQuery):
    id: list[Annotated[str, Field(max_length=500)]] = Field(
        [], max_length=MAX_IDS, description="`model/source/index`; given once for each feature"
    )


@router.get(
    f"{API}/features",
    response_model=FeatureBatch | FilteredFeatures,
    responses=error_responses(400, 404, 503),
)
def features(request: Request, store: OpenBuild, query: Annotated[FeaturesQuery, Query()]) -> Response:
    """Features of all dictionaries, filtered and sorted; `next` is the `cursor` of the next page. Or features
    by their ids, in the order of the ids.
    """
    if cached := not_modified(request):
        return cached
    if not query.id:
        return indexed_json(request, store.features(query.filters()))
    if others := [name for name in query.model_fields_set if name != "id"]:
        raise HTTPException(422, f"{others[0]}: features by `id` are neither filtered nor sorted")
    with store.held() as held:
        batch = FeatureBatch(build=held.build_id(), features=held.feature_refs(query.id))
    return indexed_json(request, batch)


Prefix = Annotated[
    str,
    Query(
        max_length=200,
        description="the beginning of a token's text, with or without its leading space; `\\n` is a line "
        "break, `0x0A` a byte, `#id` the token of that id",
    ),
]
Limit = Annotated[int, Query(ge=1, le=100)]


@router.get(f"{API}/tokens", response_model=TokenList, responses=error_responses(404, 503))
def tokens_of_all_models(
    request: Request, store: OpenBuild, prefix: Prefix = "", limit: Limit = 10
) -> Response:
    """As the tokens of one model, from all models in turn."""
    return not_modified(request) or indexed_json(request, store.completions(None, prefix, limit=limit))


@router.get(f"{API}/models/{{model}}/tokens", response_model=TokenList, responses=error_responses(404, 503))
def tokens(
    request: Request, store: OpenBuild, model: ModelId, prefix: Prefix = "", limit: Limit = 10
) -> Response:
    """Tokens that begin with `prefix`: its spellings by their occurrences (case, leading space), then longer
    tokens; each with the best features of its word. Without `prefix`, the most frequent tokens.
    """
    return not_modified(request) or indexed_json(request, store.completions(model, prefix, limit=limit))
