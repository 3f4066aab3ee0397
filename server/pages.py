"""The pages and their `.json` twins: each pair is one function that asks the store one question."""

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response
from pydantic import BaseModel, Field, model_validator

from lexiscope.records import (
    DictionaryPage,
    ErrorRecord,
    FeaturePage,
    Filters,
    HomePage,
    SearchPage,
    TokenPage,
)
from server import charts
from server.responses import Answerable, not_modified, respond
from store import NotFound, Store

RESERVED = frozenset(
    {"search", "tokens", "read", "steer", "compare", "about", "api", "static", "docs", "random", "healthz"}
)
"""first words of addresses that are never a model"""

router = APIRouter()


class ListQuery(Filters):
    """Filters as a form sends them: a field left empty is a filter not set."""

    @model_validator(mode="before")
    @classmethod
    def _drop_empty(cls, given: Any) -> Any:
        return (
            {name: value for name, value in given.items() if value != "" or name == "q"}
            if isinstance(given, dict)
            else given
        )

    def filters(self) -> Filters:
        return Filters.model_validate({name: getattr(self, name) for name in Filters.model_fields})


class SearchQuery(ListQuery):
    q: str = Field(
        default="",
        description="a token's text, or `#id`; case and outer space do not matter, a closer spelling comes first",
    )


def open_store(request: Request) -> Store:
    store: Store = request.app.state.store
    return store


Index = Annotated[Store, Depends(open_store)]
Model = Annotated[str, Path(description="the model's id", max_length=200)]
Source = Annotated[str, Path(description="`<layer>-<set>`", max_length=200)]


def page(path: str, record: type[BaseModel]) -> Callable[[Callable[..., Response]], Callable[..., Response]]:
    """Serve a function at `path` (HTML) and at its `.json` twin, which the OpenAPI reference describes."""
    twin = "/index.json" if path == "/" else f"{path}.json"
    errors: dict[int | str, dict[str, Any]] = {
        status: {"model": ErrorRecord} for status in (400, 404, 422, 503)
    }

    def add(function: Callable[..., Response]) -> Callable[..., Response]:
        router.add_api_route(twin, function, methods=["GET"], response_model=record, responses=errors)
        router.add_api_route(path, function, methods=["GET"], include_in_schema=False)
        return function

    return add


@router.get("/healthz", responses={503: {"model": ErrorRecord}})
def healthz(store: Index) -> JSONResponse:
    """Ready to answer, and from which index build."""
    return JSONResponse({"ok": True, "build": store.build_id()}, headers={"cache-control": "no-store"})


@router.get("/random", include_in_schema=False)
def random_feature(store: Index) -> RedirectResponse:
    return RedirectResponse(f"/{store.random_feature().id}", 302, headers={"cache-control": "no-store"})


@page("/", HomePage)
def home(request: Request, store: Index) -> Response:
    """Every model and dictionary, with the shares that say what its names are worth."""
    return not_modified(request) or respond(request, _home(store.home()))


def _home(record: HomePage) -> Answerable:
    drawn = {model.model: charts.panels(model.layers) for model in record.models}
    figures = {f"{model}-{field}": figure for model, own in drawn.items() for field, figure in own.items()}
    return Answerable(
        record,
        "home.html",
        figures,
        {"marks": {model.model: charts.marks(model.layers) for model in record.models}},
    )


@page("/search", SearchPage)
def search(request: Request, store: Index, query: Annotated[SearchQuery, Query()]) -> Response:
    """Tokens that match, then the features they name; nothing found is an empty page, not an error."""
    return not_modified(request) or respond(
        request, Answerable(store.search(query.q, query.filters()), "search.html")
    )


@page("/tokens/{model}/{token_id:int}", TokenPage)
def token(request: Request, store: Index, model: Model, token_id: int) -> Response:
    """One token through the layers: every dictionary, the features that carry its name, its spelling
    variants.
    """
    return not_modified(request) or respond(
        request, Answerable(store.token_page(model, token_id), "token.html")
    )


@page("/{model}/{source}", DictionaryPage)
def dictionary(
    request: Request, store: Index, model: Model, source: Source, query: Annotated[ListQuery, Query()]
) -> Response:
    """One dictionary: distributions, collisions, names the evidence contradicts, its features."""
    _refuse_reserved(model)
    if cached := not_modified(request):
        return cached
    record = store.dictionary_page(model, source, query.filters())
    figures = {
        "cosine_histogram": charts.cosines(record.cosine_histogram),
        "density_histogram": charts.densities(record.density_histogram),
    }
    return respond(request, Answerable(record, "dictionary.html", figures))


@page("/{model}/{source}/{index:int}", FeaturePage)
def feature(request: Request, store: Index, model: Model, source: Source, index: int) -> Response:
    """Everything known about one feature."""
    _refuse_reserved(model)
    if cached := not_modified(request):
        return cached
    return respond(request, Answerable(store.feature(model, source, index), "feature.html"))


def _refuse_reserved(model: str) -> None:
    if model in RESERVED:
        raise NotFound(f"{model!r} is a page's name, not a model's, and it has no page under this address")
