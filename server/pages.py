"""The pages that browse the index: home, search, token, dictionary, feature."""

from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import quote

from fastapi import Path, Query, Request
from fastapi.responses import RedirectResponse, Response
from pydantic import BaseModel, BeforeValidator, Field, create_model, model_validator

from lexiscope.records import (
    AnchorPage,
    DictionaryPage,
    FeaturePage,
    Filters,
    HomePage,
    Label,
    Record,
    SearchPage,
    TokenPage,
)
from server import kept_studies
from server.dependencies import OpenBuild, OpenLabels, OpenStore
from server.page_router import PageRouter
from server.responses import PageContent, building, is_json_route, not_modified, respond
from store import NoIndex

LABELS = 5
"""labels that a search shows; `/labels` has all of them"""

router = PageRouter()


def _lines(text: Any) -> Any:
    """A form sends a line break as two characters, which neither its field's maxlength nor a token knows."""
    return text.replace("\r\n", "\n") if isinstance(text, str) else text


FormText = Annotated[str, Field(max_length=20_000), BeforeValidator(_lines)]
"""a text of several lines, as a form sends it"""


class FormQuery(Record):
    """Filters as a form sends them: an empty field is a filter that is not set."""

    @model_validator(mode="before")
    @classmethod
    def _drop_empty(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        return {name: value for name, value in given.items() if value != "" or name == "q"}

    def filters(self) -> Filters:
        given = {
            name: getattr(self, name) for name in Filters.model_fields if name in type(self).model_fields
        }
        return Filters.model_validate(given)


class SearchQuery(FormQuery, Filters):
    q: str = Field(
        default="",
        max_length=1000,
        description="a token's text, or `#id`; case and surrounding space are ignored, and exact spellings "
        "come first",
    )
    model: str | None = Field(None, max_length=200)
    source: str | None = Field(None, max_length=200, description="`<layer>-<set>`")
    cursor: str | None = Field(None, max_length=1000, description="`next` of the page before")
    tokens_from: int = Field(0, ge=0, le=10_000_000, description="tokens to leave out before the first")


if TYPE_CHECKING:
    DictionaryQuery = SearchQuery
    EveryQuery = SearchQuery
else:

    def _without(name: str, doc: str, left_out: tuple[str, ...]) -> type[FormQuery]:
        """SearchQuery without some of its fields."""
        fields = {
            field: (info.annotation, info)
            for field, info in SearchQuery.model_fields.items()
            if field not in left_out
        }
        return create_model(name, __base__=FormQuery, __doc__=doc, **fields)

    SEARCHED = ("q", "match", "tokens_from")
    EveryQuery = _without("EveryQuery", "The filters of all features.", SEARCHED)
    DictionaryQuery = _without(
        "DictionaryQuery",
        "The filters of one dictionary's features.",
        (*SEARCHED, "model", "source", "layer"),
    )


class AnchorQuery(BaseModel):
    """Which tokens come first, and the page."""

    sort: Literal["features", "near"] = Field(
        "features",
        description="by the features whose nearest anchor it is, or by the live ones that are near to it",
    )
    start: int = Field(0, ge=0, le=10_000_000, description="tokens to leave out before the first")
    limit: int = Field(100, ge=1, le=1000)


ModelId = Annotated[str, Path(description="the model's id", max_length=200, examples=["demo"])]
SourceName = Annotated[str, Path(description="`<layer>-<set>`", max_length=200, examples=["1-vasae"])]
FeatureIndex = Annotated[int, Path(description="the feature's number", examples=[17])]
TokenId = Annotated[int, Path(description="the token's id", examples=[0])]


@router.get("/random", include_in_schema=False)
def random_feature(store: OpenStore) -> RedirectResponse:
    return RedirectResponse(f"/{store.random_feature().id}", 302, headers={"cache-control": "no-store"})


@router.page("/", HomePage, api="/models")
def home(request: Request, store: OpenBuild) -> Response:
    """All models and dictionaries, with the measures of their names. While the first index is built, the
    page leads to `/progress`.
    """
    try:
        return not_modified(request) or respond(request, PageContent(store.home(), "home.html"))
    except NoIndex:
        if is_json_route(request) or not building(request):
            raise
        return RedirectResponse("/progress", 303, headers={"cache-control": "no-store"})


@router.page("/search", SearchPage, api="/search")
def search(
    request: Request, store: OpenBuild, labels: OpenLabels, query: Annotated[SearchQuery, Query()]
) -> Response:
    """Tokens that match, and the features named by them. No match is an empty page, not an error. The page
    also has the latest labels that hold the text (`/api/v1/labels`).
    """
    state = "" if is_json_route(request) else labels.state()
    if cached := not_modified(request, state=state):
        return cached
    record = store.search(query.q, query.filters(), tokens_from=query.tokens_from)
    written: list[Label] = []
    if state and query.q.strip() and not query.cursor and not query.tokens_from:
        written = labels.search(
            store.identities(),
            query=query.q.strip(),
            model=query.model,
            source=query.source,
            limit=LABELS + 1,
        )
    context = {"labels": written[:LABELS], "more_labels": len(written) > LABELS}
    return respond(request, PageContent(record, "search.html", context, state))


@router.page("/tokens/{model}/{token_id:number}", TokenPage, api="/models/{model}/tokens/{token_id:number}")
def token(request: Request, store: OpenBuild, model: ModelId, token_id: TokenId) -> Response:
    """One token: the features named by it in every dictionary, and its spelling variants."""
    return not_modified(request) or respond(
        request, PageContent(store.token_page(model, token_id), "token.html")
    )


@router.page("/{model:model}/{source}", DictionaryPage, api="/dictionaries/{model}/{source}")
def dictionary(
    request: Request,
    store: OpenBuild,
    model: ModelId,
    source: SourceName,
    query: Annotated[DictionaryQuery, Query()],
) -> Response:
    """One dictionary: distributions, shared names, names that the evidence contradicts, features."""
    if cached := not_modified(request):
        return cached
    record = store.dictionary_page(model, source, query.filters())
    return respond(request, PageContent(record, "dictionary.html"))


@router.page("/{model:model}/{source}/anchors", AnchorPage, api="/dictionaries/{model}/{source}/anchors")
def anchors(
    request: Request,
    store: OpenBuild,
    model: ModelId,
    source: SourceName,
    query: Annotated[AnchorQuery, Query()],
) -> Response:
    """The tokens that the features of a dictionary are near to, with how many: shared nearest anchors, and
    hubs.
    """
    if cached := not_modified(request):
        return cached
    record = store.anchor_page(model, source, query.sort, start=query.start, limit=query.limit)
    return respond(request, PageContent(record, "anchors.html", context={"limit": query.limit}))


@router.page(
    "/{model:model}/{source}/{index:number}", FeaturePage, api="/features/{model}/{source}/{index:number}"
)
def feature(
    request: Request,
    store: OpenBuild,
    labels: OpenLabels,
    model: ModelId,
    source: SourceName,
    index: FeatureIndex,
    query: Annotated[DictionaryQuery, Query()],
) -> Response:
    """One feature: its name, evidence, activations, contexts, effect on the output and related features. The
    filters say which list it is a part of, for the feature before it and the one after.
    """
    folder, labelled = request.app.state.settings.studies, labels.state()
    state = "" if is_json_route(request) else "/".join(filter(None, (labelled, kept_studies.state(folder))))
    if cached := not_modified(request, state=state):
        return cached
    record = store.feature(model, source, index, query.filters())
    context: dict[str, Any] = {"labels": [], "other_seeds": []}
    if state:
        identities = store.identities()
        of = identities.get((model, source), "")
        context["other_seeds"] = kept_studies.other_seeds(folder, model, source, index, of)
        if labelled:
            context["labels"] = labels.of_feature(model, source, index, identities)
    return respond(request, PageContent(record, "feature.html", context, state))


@router.get("/{model:model}/{source}/random", include_in_schema=False)
def random_of_list(
    request: Request,
    store: OpenStore,
    model: ModelId,
    source: SourceName,
    query: Annotated[DictionaryQuery, Query()],
) -> RedirectResponse:
    """A random feature of a dictionary's filtered list; the filters stay in the address."""
    index = store.random_of(model, source, query.filters())
    kept = f"?{request.url.query}" if request.url.query else ""
    address = f"/{quote(model)}/{quote(source)}/{index}{kept}"
    return RedirectResponse(address, 302, headers={"cache-control": "no-store"})


@router.get("/{model:model}/{source}/{kind}-{token_id:number}", include_in_schema=False)
def token_direction(
    store: OpenStore,
    model: ModelId,
    source: SourceName,
    kind: Literal["token", "embedding", "jacobian"],
    token_id: int,
) -> RedirectResponse:
    """The direction of a token, by its id: it is shown on the token's page."""
    [row] = store.feature_refs([f"{model}/{source}/{kind}-{token_id}"])
    return RedirectResponse(f"/tokens/{row.model}/{row.index}#rows", 302)
