"""The asynchronous client."""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from itertools import count
from typing import Any, Self

import anyio
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
from lexiscope.client.rows import AsyncRows, Export
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


class AsyncLexiscope:
    """`Lexiscope` for asyncio and trio: methods are awaited, iterators are asynchronous."""

    def __init__(
        self, url: str = "http://127.0.0.1:8000", *, key: str = "", retries: int = RETRIES, **given: Any
    ) -> None:
        self._http = httpx.AsyncClient(base_url=url, **{"timeout": TIMEOUT, **given})
        if key:
            self._http.headers["x-api-key"] = key
        self._retries = retries

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    async def models(self) -> HomePage:
        return await self._get(calls.MODELS)

    async def model(self, model: str) -> ModelSummary:
        return await self._get(calls.model(model))

    async def dictionaries(self) -> list[LayerSummary]:
        return (await self._get(calls.DICTIONARIES)).dictionaries

    async def dictionary(self, dictionary: str, **filters: Any) -> DictionaryPage:
        return await self._get(calls.dictionary(dictionary, filters))

    def features_of(self, dictionary: str, **filters: Any) -> AsyncRows[FeatureRef]:
        return AsyncRows(self._listed(calls.features_of(dictionary, filters)))

    def all_features(self, **filters: Any) -> AsyncRows[FeatureRef]:
        return AsyncRows(self._listed(calls.features(filters)))

    async def export(self, dictionary: str, table: str = "feature") -> Export:
        return Export((await self._send(calls.export(dictionary, table))).content)

    async def feature(self, feature_id: str) -> Feature:
        return await self._get(calls.feature_page(feature_id))

    def features(self, ids: Iterable[str]) -> AsyncRows[FeatureRef]:
        return AsyncRows(self._batches(ids))

    async def similar(self, feature: FeatureNamed, **given: Any) -> list[Neighbour]:
        return (await self._get(calls.similar(calls.id_of(feature), given))).features

    def search(self, query: str, **filters: Any) -> AsyncRows[FeatureRef]:
        return AsyncRows(self._listed(calls.search(query, filters)))

    async def search_page(self, query: str, **filters: Any) -> SearchPage:
        return await self._get(calls.search(query, filters))

    async def token(self, model: str, token_id: int) -> TokenPage:
        return await self._get(calls.token(model, token_id))

    async def tokens(self, model: str, prefix: str = "", *, limit: int = 10) -> list[TokenHit]:

        return (await self._get(calls.tokens(model, prefix, limit))).tokens

    async def read(self, text: str, *, model: str, **given: Any) -> ReadResponse:
        return await self._get(calls.read(text, model, given))

    async def steer(self, prompt: str, features: Sequence[FeatureChoice], **given: Any) -> SteerResponse:

        return await self._get(calls.steer(prompt, features, given, stream=False))

    async def steer_events(
        self, prompt: str, features: Sequence[FeatureChoice], **given: Any
    ) -> AsyncIterator[SteerEvent]:
        call = calls.steer(prompt, features, given, stream=True)
        response = await self._send(call, stream=True)
        lines = EventLines()
        try:
            async for line in response.aiter_lines():
                event = lines.event(line)
                if event is not None:
                    yield event
        except httpx.TransportError as error:
            raise Unreachable(f"{self._http.base_url}: {error}") from error
        finally:
            await response.aclose()

    async def sweep(self, prompt: str, features: Sequence[FeatureChoice], **given: Any) -> Sweep:
        return await self._get(calls.sweep(prompt, features, given))

    async def label(self, feature: FeatureNamed, label: str, *, note: str = "", author: str = "") -> Label:
        fields = LabelRequest(label=label, note=note, author=author).model_dump()
        return await self._get(calls.add_label(calls.id_of(feature), fields))

    async def labels(self, feature: FeatureNamed) -> list[Label]:
        return (await self._get(calls.labels_of(calls.id_of(feature)))).labels

    def search_labels(self, query: str = "", **given: Any) -> AsyncRows[Label]:
        return AsyncRows(self._labels(query, given))

    async def remove_label(self, label: Label) -> None:
        await self._send(calls.remove_label(label.feature, label.id))

    async def studies(self) -> list[StudySummary]:
        """The records of every study that was run, by study and model."""
        return (await self._get(calls.STUDIES)).studies

    async def study(self, name: str) -> StudyRecord:
        """One record: answer, figures beside their control, tables, and the description of a chart."""
        return await self._get(calls.study(name))

    async def keep_list(
        self,
        name: str,
        features: Mapping[str, str] | Iterable[FeatureNamed],
        *,
        version: int = 0,
    ) -> KeptListSummary:
        request = ListRequest(name=name, features=calls.noted(features), version=version)
        return await self._get(calls.keep_list(request))

    async def kept_lists(self, *, owner: str | None = None) -> list[KeptListSummary]:
        return (await self._get(calls.kept_lists(owner))).lists

    async def kept_list(self, list_id: int) -> KeptListPage:
        return await self._get(calls.kept_list(list_id))

    async def remove_list(self, list_id: int) -> None:
        await self._send(calls.remove_list(list_id))

    async def worker(self) -> WorkerHealth:
        return await self._get(calls.WORKER)

    async def _get(self, call: Call[Result]) -> Result:
        return call.record.model_validate_json((await self._send(call)).content)

    async def _listed(self, call: Call[Page]) -> AsyncIterator[FeatureRef]:
        async for page in self._pages(call):
            for feature in page.features:
                yield feature

    async def _batches(self, ids: Iterable[str]) -> AsyncIterator[FeatureRef]:
        for batch in calls.batches(ids):
            for feature in (await self._get(batch)).features:
                yield feature

    async def _labels(self, query: str, given: dict[str, Any]) -> AsyncIterator[Label]:
        while True:
            page = await self._get(calls.search_labels(query, given))
            for label in page.labels:
                yield label
            if page.next is None:
                return
            given = {**given, "before": page.next}

    async def _pages(self, call: Call[Page]) -> AsyncIterator[Page]:
        while True:
            page = await self._get(call)
            yield page
            if page.next is None:
                return
            call = call.after(page.next)

    async def _send(self, call: Call[Any], *, stream: bool = False) -> httpx.Response:
        for attempt in count():
            try:
                response = await self._http.send(call.request(self._http, stream=stream), stream=stream)
                if response.is_success:
                    return response
                await response.aread()
            except httpx.TransportError as error:
                raise Unreachable(f"{self._http.base_url}: {error}") from error
            wait = wait_before_retry(response, attempt, self._retries)
            if wait is None:
                raise failure(problem_of(response))
            await anyio.sleep(wait)
        raise AssertionError("unreachable")
