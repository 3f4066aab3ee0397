"""A client of a Lexiscope server. Results are the server's own records; lists are iterators over all pages.

    from lexiscope.client import Lexiscope

    with Lexiscope("http://127.0.0.1:8000") as server:
        for feature in server.search(" king", model="demo", verdict="specific"):
            print(feature.id, feature.density)
        for event in server.steer_events("Once upon a time", ["demo/4-vasae/17"], temperature=0):
            ...

`AsyncLexiscope` has the same methods to be awaited, and asynchronous iterators. Filters, and the fields of a
reading or a steer, are given by name; the server says which exist.
"""

import email.utils
import json
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from itertools import count, islice
from typing import Any, Generic, NamedTuple, Self, TypeVar
from urllib.parse import quote

import anyio
import httpx
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import to_jsonable_python

from lexiscope.records import (
    Context,
    DictionaryList,
    DictionaryPage,
    ErrorRecord,
    FeatureBatch,
    FeatureList,
    FeaturePage,
    FeatureRecord,
    FeatureRef,
    HomePage,
    LayerSummary,
    ModelSummary,
    Record,
    SearchPage,
    Share,
    TokenHit,
    TokenList,
    TokenPage,
    measures_of,
)
from lexiscope.records.live import (
    ReadResponse,
    SteerError,
    SteerEvent,
    SteerResponse,
    SweepResponse,
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

FeatureChoice = str | FeatureRef | FeatureRecord | FeaturePage | Mapping[str, Any]
"""A feature of a steer: its id, its record, or the fields of an intervention."""


# --- errors ---


class RequestFailed(Exception):
    """The server's answer is an error; `problem` has its status and its words."""

    def __init__(self, problem: ErrorRecord) -> None:
        super().__init__(" ".join(filter(None, [f"{problem.status}: {problem.detail}", problem.kept])))
        self.problem = problem


class NotFound(RequestFailed):
    """A model, dictionary, feature or token that the index does not hold."""


class InvalidRequest(RequestFailed):
    """A value that is out of range, a name that does not exist, or a cursor of another index build."""


class Busy(RequestFailed):
    """The server cannot answer now, and retries did not help: 429 or 503."""


class Unreachable(Exception):
    """No server answers at the address, or the connection broke."""


def _failure(problem: ErrorRecord) -> RequestFailed:
    kinds: dict[int, type[RequestFailed]] = {404: NotFound, 429: Busy, 503: Busy}
    kinds |= dict.fromkeys((400, 413, 415, 422), InvalidRequest)
    return kinds.get(problem.status, RequestFailed)(problem)


def _problem(response: httpx.Response) -> ErrorRecord:
    """The problem details of a response that was read; those of a proxy, say, are made from its status."""
    try:
        return ErrorRecord.model_validate_json(response.content)
    except ValidationError:
        detail = f"{response.url} answered {response.reason_phrase or 'an error'}"
        return ErrorRecord(status=response.status_code, detail=detail)


# --- requests ---

Result = TypeVar("Result", bound=BaseModel)
Page = TypeVar("Page", FeatureList, SearchPage)


class Call(NamedTuple, Generic[Result]):
    """One request and the record of its response."""

    record: type[Result]
    path: str
    query: Mapping[str, Any] = {}
    body: Mapping[str, Any] | None = None

    def request(self, http: httpx.Client | httpx.AsyncClient, *, stream: bool = False) -> httpx.Request:
        accept = "text/event-stream, application/problem+json" if stream else "application/json"
        query = {name: value for name, value in self.query.items() if value is not None}
        return http.build_request(
            "GET" if self.body is None else "POST",
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


def _feature(choice: FeatureChoice) -> Mapping[str, Any]:
    if isinstance(choice, FeaturePage):
        choice = choice.feature
    if isinstance(choice, FeatureRef | FeatureRecord):
        choice = choice.id
    return {"id": choice} if isinstance(choice, str) else choice


def _steer_body(prompt: str, features: Sequence[FeatureChoice], given: Mapping[str, Any]) -> dict[str, Any]:
    """The body of a steer or a sweep. The model is that of the first feature given by id, unless it is
    named.
    """
    chosen = [_feature(choice) for choice in features]
    ids = [str(one["id"]) for one in chosen if "id" in one]
    model = {"model": ids[0].partition("/")[0]} if ids else {}
    return {**model, **given, "prompt": prompt, "features": chosen}


class _EventLines:
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
            raise _failure(event)
        return event


MODELS = Call(HomePage, "/models")
DICTIONARIES = Call(DictionaryList, "/dictionaries")
WORKER = Call(WorkerHealth, "/worker")


def _model(model: str) -> Call[ModelSummary]:
    return Call(ModelSummary, f"/models/{quote(model)}")


def _dictionary(dictionary: str, filters: Mapping[str, Any]) -> Call[DictionaryPage]:
    return Call(DictionaryPage, f"/dictionaries/{quote(dictionary)}", filters)


def _features_of(dictionary: str, filters: Mapping[str, Any]) -> Call[FeatureList]:
    return Call(FeatureList, f"/dictionaries/{quote(dictionary)}/features", filters)


def _feature_page(feature_id: str) -> "Call[Feature]":
    return Call(Feature, f"/features/{quote(feature_id)}")


def _batches(ids: Iterable[str]) -> Iterator[Call[FeatureBatch]]:
    waiting = iter(ids)
    while part := list(islice(waiting, BATCH)):
        yield Call(FeatureBatch, "/features", {"id": part})


def _search(query: str, filters: Mapping[str, Any]) -> Call[SearchPage]:
    return Call(SearchPage, "/search", {"q": query, **filters})


def _token(model: str, token_id: int) -> Call[TokenPage]:
    return Call(TokenPage, f"/models/{quote(model)}/tokens/{token_id}")


def _tokens(model: str, prefix: str, limit: int) -> Call[TokenList]:
    return Call(TokenList, f"/models/{quote(model)}/tokens", {"prefix": prefix, "limit": limit})


def _read(text: str, model: str, given: Mapping[str, Any]) -> Call[ReadResponse]:
    return Call(ReadResponse, "/read", {}, {"model": model, "text": text, **given})


def _steer(
    prompt: str, features: Sequence[FeatureChoice], given: Mapping[str, Any], *, stream: bool
) -> Call[SteerResponse]:
    return Call(SteerResponse, "/steer", {"stream": stream}, _steer_body(prompt, features, given))


def _sweep(prompt: str, features: Sequence[FeatureChoice], given: Mapping[str, Any]) -> Call[SweepResponse]:
    return Call(SweepResponse, "/steer/sweep", {}, _steer_body(prompt, features, given))


# --- clients ---


class Lexiscope:
    """A server at `url`. `retries` are those of a request that gets 429 or 503. Further arguments are
    httpx.Client's. Every method may raise RequestFailed and Unreachable.
    """

    def __init__(self, url: str = "http://127.0.0.1:8000", *, retries: int = RETRIES, **given: Any) -> None:
        self._http = httpx.Client(base_url=url, **{"timeout": TIMEOUT, **given})
        self._retries = retries

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def models(self) -> HomePage:
        """All models and dictionaries."""
        return self._get(MODELS)

    def model(self, model: str) -> ModelSummary:
        return self._get(_model(model))

    def dictionaries(self) -> list[LayerSummary]:
        return self._get(DICTIONARIES).dictionaries

    def dictionary(self, dictionary: str, **filters: Any) -> DictionaryPage:
        """A dictionary, `model/source`, with one page of its features."""
        return self._get(_dictionary(dictionary, filters))

    def features_of(self, dictionary: str, **filters: Any) -> Iterator[FeatureRef]:
        """All features of a dictionary, `model/source`, that pass the filters; `limit` is a page's size."""
        for page in self._pages(_features_of(dictionary, filters)):
            yield from page.features

    def feature(self, feature_id: str) -> "Feature":
        """Everything about one feature, `model/source/index`."""
        return self._get(_feature_page(feature_id))

    def features(self, ids: Iterable[str]) -> Iterator[FeatureRef]:
        """Features by their ids, in one line each, in the order of the ids."""
        for batch in _batches(ids):
            yield from self._get(batch).features

    def search(self, query: str, **filters: Any) -> Iterator[FeatureRef]:
        """The features that matching tokens name, best match first; `limit` is a page's size."""
        for page in self._pages(_search(query, filters)):
            yield from page.features

    def search_page(self, query: str, **filters: Any) -> SearchPage:
        """The tokens that match, and one page of the features that they name."""
        return self._get(_search(query, filters))

    def token(self, model: str, token_id: int) -> TokenPage:
        return self._get(_token(model, token_id))

    def tokens(self, model: str, prefix: str = "", *, limit: int = 10) -> list[TokenHit]:
        """Tokens that begin with `prefix`, with or without their leading space."""
        return self._get(_tokens(model, prefix, limit)).tokens

    def read(self, text: str, *, model: str, **given: Any) -> ReadResponse:
        """The features that are active on a text; `given` are fields of a ReadRequest."""
        return self._get(_read(text, model, given))

    def steer(self, prompt: str, features: Sequence[FeatureChoice], **given: Any) -> SteerResponse:
        """The default and the steered text; `given` are fields of a SteerRequest."""
        return self._get(_steer(prompt, features, given, stream=False))

    def steer_events(
        self, prompt: str, features: Sequence[FeatureChoice], **given: Any
    ) -> Iterator[SteerEvent]:
        """The same as events, each when the server sends it. Closing the iterator cancels the steer."""
        response = self._send(_steer(prompt, features, given, stream=True), stream=True)
        lines = _EventLines()
        try:
            for line in response.iter_lines():
                event = lines.event(line)
                if event is not None:
                    yield event
        except httpx.TransportError as error:
            raise Unreachable(f"{self._http.base_url}: {error}") from error
        finally:
            response.close()

    def sweep(self, prompt: str, features: Sequence[FeatureChoice], **given: Any) -> SweepResponse:
        """A dose-response curve; `given` are fields of a SweepRequest."""
        return self._get(_sweep(prompt, features, given))

    def worker(self) -> WorkerHealth:
        """The state of the model worker."""
        return self._get(WORKER)

    def _get(self, call: Call[Result]) -> Result:
        return call.record.model_validate_json(self._send(call).content)

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
                raise _failure(_problem(response))
            time.sleep(wait)
        raise AssertionError("unreachable")


class AsyncLexiscope:
    """`Lexiscope` for asyncio and trio: methods are awaited, iterators are asynchronous."""

    def __init__(self, url: str = "http://127.0.0.1:8000", *, retries: int = RETRIES, **given: Any) -> None:
        self._http = httpx.AsyncClient(base_url=url, **{"timeout": TIMEOUT, **given})
        self._retries = retries

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    async def models(self) -> HomePage:
        return await self._get(MODELS)

    async def model(self, model: str) -> ModelSummary:
        return await self._get(_model(model))

    async def dictionaries(self) -> list[LayerSummary]:
        return (await self._get(DICTIONARIES)).dictionaries

    async def dictionary(self, dictionary: str, **filters: Any) -> DictionaryPage:
        return await self._get(_dictionary(dictionary, filters))

    async def features_of(self, dictionary: str, **filters: Any) -> AsyncIterator[FeatureRef]:
        async for page in self._pages(_features_of(dictionary, filters)):
            for feature in page.features:
                yield feature

    async def feature(self, feature_id: str) -> "Feature":
        return await self._get(_feature_page(feature_id))

    async def features(self, ids: Iterable[str]) -> AsyncIterator[FeatureRef]:
        for batch in _batches(ids):
            for feature in (await self._get(batch)).features:
                yield feature

    async def search(self, query: str, **filters: Any) -> AsyncIterator[FeatureRef]:
        async for page in self._pages(_search(query, filters)):
            for feature in page.features:
                yield feature

    async def search_page(self, query: str, **filters: Any) -> SearchPage:
        return await self._get(_search(query, filters))

    async def token(self, model: str, token_id: int) -> TokenPage:
        return await self._get(_token(model, token_id))

    async def tokens(self, model: str, prefix: str = "", *, limit: int = 10) -> list[TokenHit]:

        return (await self._get(_tokens(model, prefix, limit))).tokens

    async def read(self, text: str, *, model: str, **given: Any) -> ReadResponse:
        return await self._get(_read(text, model, given))

    async def steer(self, prompt: str, features: Sequence[FeatureChoice], **given: Any) -> SteerResponse:

        return await self._get(_steer(prompt, features, given, stream=False))

    async def steer_events(
        self, prompt: str, features: Sequence[FeatureChoice], **given: Any
    ) -> AsyncIterator[SteerEvent]:
        call = _steer(prompt, features, given, stream=True)
        response = await self._send(call, stream=True)
        lines = _EventLines()
        try:
            async for line in response.aiter_lines():
                event = lines.event(line)
                if event is not None:
                    yield event
        except httpx.TransportError as error:
            raise Unreachable(f"{self._http.base_url}: {error}") from error
        finally:
            await response.aclose()

    async def sweep(self, prompt: str, features: Sequence[FeatureChoice], **given: Any) -> SweepResponse:
        return await self._get(_sweep(prompt, features, given))

    async def worker(self) -> WorkerHealth:
        return await self._get(WORKER)

    async def _get(self, call: Call[Result]) -> Result:
        return call.record.model_validate_json((await self._send(call)).content)

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
                raise _failure(_problem(response))
            await anyio.sleep(wait)
        raise AssertionError("unreachable")


# --- notebooks ---


class Feature(FeaturePage):
    """A feature's page, which a notebook shows with its name, its evidence and its strongest contexts."""

    def _repr_html_(self) -> str:
        feature = self.feature
        rows = "".join(row for record in _judged(feature) for row in _rows(record))
        contexts = [context for context in feature.contexts if context.kind == "top"][:5]
        return (
            f"<div><h4>{escape(feature.name.shown)} <small>{escape(feature.id)}</small></h4>"
            f"<p><b>{escape(feature.verdict)}</b>: {escape(feature.verdict_words)}</p>"
            f"<table><tr><th></th><th>value</th><th>chance</th></tr>{rows}</table>"
            + "".join(_line(context, feature.max_activation) for context in contexts)
            + "</div>"
        )


def _judged(feature: FeatureRecord) -> Iterator[Record]:
    """The parts of a feature that hold measures, and what the ablation pass measured."""
    parts = [getattr(feature, name) for name in FeatureRecord.model_fields]
    for part in (*parts, feature.evidence and feature.evidence.causal):
        if isinstance(part, Record):
            yield part


def _rows(record: Record) -> Iterator[str]:
    """The measures of a record as rows of a table."""
    for field, measure in measures_of(type(record)).items():
        value = getattr(record, field)
        shown, chance = (value.value, value.null) if isinstance(value, Share) else (value, None)
        if shown is not None:
            cells = "".join(f"<td>{_number(one)}</td>" for one in (shown, chance))
            yield f'<tr title="{escape(measure.meaning)}"><td>{escape(measure.label)}</td>{cells}</tr>'


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return str(value) if isinstance(value, int) else f"{value:.4g}"


ABOVE, BELOW = "255,140,0", "60,130,255"


def _line(context: Context, highest: float) -> str:
    """The tokens of a context, darker where the feature is more active, blue where it is negative."""
    top = highest or 1.0
    tokens = "".join(
        f'<span style="background:rgba({BELOW if value < 0 else ABOVE},{min(abs(value) / top, 1):.2f})">'
        f"{escape(token.shown.replace('␣', ' '))}</span>"
        for token, value in zip(context.tokens, context.values, strict=True)
    )
    return f'<div style="white-space:pre-wrap" dir="auto">{tokens}</div>'
