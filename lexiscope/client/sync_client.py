"""The synchronous client."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import count
from typing import Any, Self

import httpx

from lexiscope.client import calls
from lexiscope.client.calls import (
    RETRIES,
    TIMEOUT,
    Call,
    EventLines,
    FeatureChoice,
    FeatureNamed,
    Page,
    Result,
    wait_before_retry,
)
from lexiscope.client.errors import Unreachable, failure, problem_of
from lexiscope.client.notebook import Feature, Sweep
from lexiscope.client.rows import Export, Rows
from lexiscope.records import (
    DictionaryPage,
    FeatureRef,
    HomePage,
    Label,
    LabelRequest,
    LayerSummary,
    ModelSummary,
    Neighbour,
    SearchPage,
    StudyRecord,
    StudySummary,
    TokenHit,
    TokenPage,
)
from lexiscope.records.collection import KeptListPage, KeptListSummary, ListRequest
from lexiscope.records.live import ReadResponse, SteerEvent, SteerResponse, WorkerHealth


class Lexiscope:
    """A server at `url`. `key` is an API key, where the server wants one; `retries` are those of a
    request that gets 429 or 503. Further arguments are
    httpx.Client's. Every method may raise RequestFailed and Unreachable.
    """

    def __init__(
        self, url: str = "http://127.0.0.1:8000", *, key: str = "", retries: int = RETRIES, **given: Any
    ) -> None:
        self._http = httpx.Client(base_url=url, **{"timeout": TIMEOUT, **given})
        if key:
            self._http.headers["x-api-key"] = key
        self._retries = retries

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def models(self) -> HomePage:
        """All models and dictionaries."""
        return self._get(calls.MODELS)

    def model(self, model: str) -> ModelSummary:
        return self._get(calls.model(model))

    def dictionaries(self) -> list[LayerSummary]:
        return self._get(calls.DICTIONARIES).dictionaries

    def dictionary(self, dictionary: str, **filters: Any) -> DictionaryPage:
        """A dictionary, `model/source`, with one page of its features."""
        return self._get(calls.dictionary(dictionary, filters))

    def features_of(self, dictionary: str, **filters: Any) -> Rows[FeatureRef]:
        """All features of a dictionary, `model/source`, that pass the filters; `limit` is a page's size."""
        return Rows(self._listed(calls.features_of(dictionary, filters)))

    def all_features(self, **filters: Any) -> Rows[FeatureRef]:
        """All features of all dictionaries that pass the filters; `limit` is a page's size."""
        return Rows(self._listed(calls.features(filters)))

    def export(self, dictionary: str, table: str = "feature") -> Export:
        """All features of a dictionary, `model/source`, or all contexts (`table="context"`), as Parquet."""
        return Export(self._send(calls.export(dictionary, table)).content)

    def feature(self, feature_id: str) -> Feature:
        """Everything about one feature, `model/source/index`."""
        return self._get(calls.feature_page(feature_id))

    def features(self, ids: Iterable[str]) -> Rows[FeatureRef]:
        """Features by their ids, in one line each, in the order of the ids."""
        return Rows(ref for batch in calls.batches(ids) for ref in self._get(batch).features)

    def similar(self, feature: FeatureNamed, **given: Any) -> list[Neighbour]:
        """The features with the nearest directions, in the dictionary `to` or its own; at most `limit`."""
        return self._get(calls.similar(calls.id_of(feature), given)).features

    def search(self, query: str, **filters: Any) -> Rows[FeatureRef]:
        """The features that matching tokens name, best match first; `limit` is a page's size."""
        return Rows(self._listed(calls.search(query, filters)))

    def search_page(self, query: str, **filters: Any) -> SearchPage:
        """The tokens that match, and one page of the features that they name."""
        return self._get(calls.search(query, filters))

    def token(self, model: str, token_id: int) -> TokenPage:
        return self._get(calls.token(model, token_id))

    def tokens(self, model: str, prefix: str = "", *, limit: int = 10) -> list[TokenHit]:
        """Tokens that begin with `prefix`, with or without their leading space."""
        return self._get(calls.tokens(model, prefix, limit)).tokens

    def read(self, text: str, *, model: str, **given: Any) -> ReadResponse:
        """The features that are active on a text; `given` are fields of a ReadRequest."""
        return self._get(calls.read(text, model, given))

    def steer(self, prompt: str, features: Sequence[FeatureChoice], **given: Any) -> SteerResponse:
        """The default and the steered text; `given` are fields of a SteerRequest."""
        return self._get(calls.steer(prompt, features, given, stream=False))

    def steer_events(
        self, prompt: str, features: Sequence[FeatureChoice], **given: Any
    ) -> Iterator[SteerEvent]:
        """The same as events, each when the server sends it. Closing the iterator cancels the steer."""
        response = self._send(calls.steer(prompt, features, given, stream=True), stream=True)
        lines = EventLines()
        try:
            for line in response.iter_lines():
                event = lines.event(line)
                if event is not None:
                    yield event
        except httpx.TransportError as error:
            raise Unreachable(f"{self._http.base_url}: {error}") from error
        finally:
            response.close()

    def sweep(self, prompt: str, features: Sequence[FeatureChoice], **given: Any) -> Sweep:
        """A dose-response curve; `given` are fields of a SweepRequest."""
        return self._get(calls.sweep(prompt, features, given))

    def label(self, feature: FeatureNamed, label: str, *, note: str = "", author: str = "") -> Label:
        """Label a feature. Where keys are on, the author is the key's name."""
        fields = LabelRequest(label=label, note=note, author=author).model_dump()
        return self._get(calls.add_label(calls.id_of(feature), fields))

    def labels(self, feature: FeatureNamed) -> list[Label]:
        """A feature's labels, the latest first."""
        return self._get(calls.labels_of(calls.id_of(feature))).labels

    def search_labels(self, query: str = "", **given: Any) -> Rows[Label]:
        """All labels that hold a text, the latest first; `limit` is a page's size."""
        return Rows(self._labels(query, given))

    def remove_label(self, label: Label) -> None:
        self._send(calls.remove_label(label.feature, label.id))

    def studies(self) -> list[StudySummary]:
        """The records of every study that was run, by study and model."""
        return self._get(calls.STUDIES).studies

    def study(self, name: str) -> StudyRecord:
        """One record: answer, figures beside their control, tables, and the description of a chart."""
        return self._get(calls.study(name))

    def keep_list(
        self,
        name: str,
        features: Mapping[str, str] | Iterable[FeatureNamed],
        *,
        version: int = 0,
    ) -> KeptListSummary:
        """Keep a list of features, or {id: note}, on a server with keys, in place of a version."""
        request = ListRequest(name=name, features=calls.noted(features), version=version)
        return self._get(calls.keep_list(request))

    def kept_lists(self, *, owner: str | None = None) -> list[KeptListSummary]:
        """The lists that the server keeps, the last changed first."""
        return self._get(calls.kept_lists(owner)).lists

    def kept_list(self, list_id: int) -> KeptListPage:
        """A kept list with its features and notes."""
        return self._get(calls.kept_list(list_id))

    def remove_list(self, list_id: int) -> None:
        self._send(calls.remove_list(list_id))

    def worker(self) -> WorkerHealth:
        """The state of the model worker."""
        return self._get(calls.WORKER)

    def _get(self, call: Call[Result]) -> Result:
        return call.record.model_validate_json(self._send(call).content)

    def _listed(self, call: Call[Page]) -> Iterator[FeatureRef]:
        for page in self._pages(call):
            yield from page.features

    def _labels(self, query: str, given: dict[str, Any]) -> Iterator[Label]:
        while True:
            page = self._get(calls.search_labels(query, given))
            yield from page.labels
            if page.next is None:
                return
            given = {**given, "before": page.next}

    def _pages(self, call: Call[Page]) -> Iterator[Page]:
        while True:
            page = self._get(call)
            yield page
            if page.next is None:
                return
            call = call.after(page.next)

    def _send(self, call: Call[Any], *, stream: bool = False) -> httpx.Response:
        """The response, read unless it is a stream that succeeded."""
        for attempt in count():
            try:
                response = self._http.send(call.request(self._http, stream=stream), stream=stream)
                if response.is_success:
                    return response
                response.read()
            except httpx.TransportError as error:
                raise Unreachable(f"{self._http.base_url}: {error}") from error
            wait = wait_before_retry(response, attempt, self._retries)
            if wait is None:
                raise failure(problem_of(response))
            time.sleep(wait)
        raise AssertionError("unreachable")
