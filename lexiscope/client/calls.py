"""Every request of the client: its address, its fields, and the record of its response."""

import email.utils
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Generic, NamedTuple, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, TypeAdapter
from pydantic_core import to_jsonable_python

from lexiscope.client.errors import failure
from lexiscope.client.notebook import Feature, Sweep
from lexiscope.records import (
    DictionaryList,
    DictionaryPage,
    FeatureBatch,
    FeatureList,
    FeaturePage,
    FeatureRecord,
    FeatureRef,
    FilteredFeatures,
    HomePage,
    Label,
    LabelList,
    ModelSummary,
    SearchPage,
    SimilarFeatures,
    StudyList,
    StudyRecord,
    TokenList,
    TokenPage,
)
from lexiscope.records.collection import (
    KeptListOverview,
    KeptListPage,
    KeptListSummary,
    ListRequest,
    NotedFeature,
)
from lexiscope.records.live import (
    ReadResponse,
    SteerError,
    SteerEvent,
    SteerResponse,
    WorkerHealth,
)

API = "/api/v1"
TIMEOUT = httpx.Timeout(10, read=300)
"""seconds; a reading or a steer may wait for the model"""
RETRIES = 4
FIRST_WAIT, LONGEST_WAIT = 0.5, 60.0
"""seconds before the first retry, doubled for each further one; a server that asks for more is not retried"""
BATCH = 64
"""ids that one request may have"""
EVENT: TypeAdapter[SteerEvent] = TypeAdapter(SteerEvent)

FeatureNamed = str | FeatureRef | FeatureRecord | FeaturePage
"""A feature: its id, or its record."""
FeatureChoice = FeatureNamed | Mapping[str, Any]
"""A feature of a steer: its id, its record, or the fields of an intervention."""


Result = TypeVar("Result", bound=BaseModel)
Page = TypeVar("Page", FeatureList, FilteredFeatures, SearchPage)


class Call(NamedTuple, Generic[Result]):
    """One request and the record of its response."""

    record: type[Result]
    path: str
    query: Mapping[str, Any] = {}
    body: Mapping[str, Any] | None = None
    method: str = ""
    """GET, or POST with a body, unless given"""

    def request(self, http: httpx.Client | httpx.AsyncClient, *, stream: bool = False) -> httpx.Request:
        accept = "text/event-stream, application/problem+json" if stream else "application/json, */*;q=0.5"
        query = {name: value for name, value in self.query.items() if value is not None}
        return http.build_request(
            self.method or ("GET" if self.body is None else "POST"),
            API + self.path,
            params=query,
            json=None if self.body is None else to_jsonable_python(self.body),
            headers={"accept": accept},
        )

    def after(self, cursor: str) -> "Call[Result]":
        """The request of the next page."""
        return self._replace(query={**self.query, "cursor": cursor})


def wait_before_retry(response: httpx.Response, attempt: int, retries: int) -> float | None:
    """Seconds to wait before the request is sent again; None if it is not. Retry-After, in seconds or as a
    date, goes before the doubling wait.
    """
    if response.status_code not in (429, 503) or attempt >= retries:
        return None
    given, wait = response.headers.get("retry-after", ""), FIRST_WAIT * 2**attempt
    if given.isascii() and given.isdigit() and len(given) < 10:
        wait = float(given)
    elif given:
        try:
            date = email.utils.parsedate_to_datetime(given)
            wait = max(0.0, (date - datetime.now(UTC)).total_seconds())
        except (ValueError, TypeError):
            pass
    return wait if wait <= LONGEST_WAIT else None


def chosen_fields(choice: FeatureChoice) -> Mapping[str, Any]:
    if isinstance(choice, FeaturePage):
        choice = choice.feature
    if isinstance(choice, FeatureRef | FeatureRecord):
        choice = choice.id
    return {"id": choice} if isinstance(choice, str) else choice


def _steer_body(prompt: str, features: Sequence[FeatureChoice], given: Mapping[str, Any]) -> dict[str, Any]:
    """The body of a steer or a sweep. The model is that of the first feature given by id, unless it is
    named.
    """
    chosen = [chosen_fields(choice) for choice in features]
    ids = [str(one["id"]) for one in chosen if "id" in one]
    model = {"model": ids[0].partition("/")[0]} if ids else {}
    return {**model, **given, "prompt": prompt, "features": chosen}


class EventLines:
    """Server-sent events from the lines of a response."""

    def __init__(self) -> None:
        self._data: list[str] = []

    def event(self, line: str) -> SteerEvent | None:
        """The event that a line completes. Raises RequestFailed for an error event."""
        if line.startswith("data:"):
            self._data.append(line[5:].removeprefix(" "))
        if line or not self._data:
            return None
        event = EVENT.validate_python(json.loads("\n".join(self._data)))
        self._data = []
        if isinstance(event, SteerError):
            raise failure(event)
        return event


MODELS = Call(HomePage, "/models")
DICTIONARIES = Call(DictionaryList, "/dictionaries")
WORKER = Call(WorkerHealth, "/worker")
STUDIES = Call(StudyList, "/studies")


def model(model: str) -> Call[ModelSummary]:
    return Call(ModelSummary, f"/models/{quote(model)}")


def dictionary(dictionary: str, filters: Mapping[str, Any]) -> Call[DictionaryPage]:
    return Call(DictionaryPage, f"/dictionaries/{quote(dictionary)}", filters)


def features_of(dictionary: str, filters: Mapping[str, Any]) -> Call[FeatureList]:
    return Call(FeatureList, f"/dictionaries/{quote(dictionary)}/features", filters)


def feature_page(feature_id: str) -> "Call[Feature]":
    return Call(Feature, f"/features/{quote(feature_id)}")


def batches(ids: Iterable[str]) -> Iterator[Call[FeatureBatch]]:
    waiting = iter(ids)
    while part := list(islice(waiting, BATCH)):
        yield Call(FeatureBatch, "/features", {"id": part})


def search(query: str, filters: Mapping[str, Any]) -> Call[SearchPage]:
    return Call(SearchPage, "/search", {"q": query, **filters})


def token(model: str, token_id: int) -> Call[TokenPage]:
    return Call(TokenPage, f"/models/{quote(model)}/tokens/{token_id}")


def tokens(model: str, prefix: str, limit: int) -> Call[TokenList]:
    return Call(TokenList, f"/models/{quote(model)}/tokens", {"prefix": prefix, "limit": limit})


def read(text: str, model: str, given: Mapping[str, Any]) -> Call[ReadResponse]:
    return Call(ReadResponse, "/read", {}, {"model": model, "text": text, **given})


def steer(
    prompt: str, features: Sequence[FeatureChoice], given: Mapping[str, Any], *, stream: bool
) -> Call[SteerResponse]:
    return Call(SteerResponse, "/steer", {"stream": stream}, _steer_body(prompt, features, given))


def sweep(prompt: str, features: Sequence[FeatureChoice], given: Mapping[str, Any]) -> Call[Sweep]:
    return Call(Sweep, "/steer/sweep", {}, _steer_body(prompt, features, given))


def features(filters: Mapping[str, Any]) -> Call[FilteredFeatures]:
    return Call(FilteredFeatures, "/features", filters)


def similar(feature_id: str, given: Mapping[str, Any]) -> Call[SimilarFeatures]:
    return Call(SimilarFeatures, f"/features/{quote(feature_id)}/similar", given)


def export(dictionary: str, table: str) -> Call[Any]:
    path = f"/dictionaries/{quote(dictionary)}/export"
    return Call(FeatureList, path, {"format": "parquet", "table": table})


def add_label(feature_id: str, fields: Mapping[str, Any]) -> Call[Label]:
    return Call(Label, f"/features/{quote(feature_id)}/labels", {}, fields)


def labels_of(feature_id: str) -> Call[LabelList]:
    return Call(LabelList, f"/features/{quote(feature_id)}/labels")


def search_labels(query: str, given: Mapping[str, Any]) -> Call[LabelList]:
    return Call(LabelList, "/labels", {"q": query, **given})


def study(name: str) -> Call[StudyRecord]:
    return Call(StudyRecord, f"/studies/{quote(name, safe='')}")


def remove_label(feature_id: str, label_id: int) -> Call[Any]:
    return Call(Label, f"/features/{quote(feature_id)}/labels/{label_id}", method="DELETE")


def keep_list(request: ListRequest) -> Call[KeptListSummary]:
    return Call(KeptListSummary, "/lists/kept", {}, request.model_dump(), "PUT")


def kept_lists(owner: str | None) -> Call[KeptListOverview]:
    return Call(KeptListOverview, "/lists/kept", {"owner": owner})


def kept_list(list_id: int) -> Call[KeptListPage]:
    return Call(KeptListPage, f"/lists/kept/{list_id}")


def remove_list(list_id: int) -> Call[Any]:
    return Call(KeptListSummary, f"/lists/kept/{list_id}", method="DELETE")


def noted(features: Mapping[str, str] | Iterable[FeatureNamed]) -> list[NotedFeature]:
    """Features of a list, with their notes where they are given."""
    if isinstance(features, Mapping):
        return [NotedFeature(id=feature, note=note) for feature, note in features.items()]
    return [NotedFeature(id=id_of(feature)) for feature in features]


def id_of(choice: FeatureNamed) -> str:
    """The id of a feature given by its id or its record."""
    return str(chosen_fields(choice)["id"])
