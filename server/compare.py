"""Two dictionaries of one model beside each other: their figures, features matched by direction and by name,
a text read with both. The page, its `.json` twin and its REST address.
"""

import asyncio
from collections.abc import Awaitable, Sequence
from itertools import pairwise
from statistics import median
from typing import Annotated, Literal, TypeVar

from fastapi import Query, Request
from fastapi.concurrency import contextmanager_in_threadpool, run_in_threadpool
from fastapi.responses import Response
from pydantic import Field
from starlette.exceptions import HTTPException

from lexiscope.records import FeatureRef, Histogram, Relation, Verdict
from lexiscope.records.compare import ComparePage, FeatureMatch, MatchSummary
from lexiscope.records.live import ReadResponse, SteerError
from lexiscope.records.requests import ReadRequest
from server.attach_names import refs_by_id
from server.dependencies import OpenStore, Worker
from server.live import MatchJob, WorkerClient, WorkerRefused
from server.live.messages import RawMatches
from server.page_router import PageRouter
from server.pages import FormQuery, FormText
from server.read_response import read_response
from server.requests_to_jobs import IndexedModel, dictionary_path, read_job
from server.responses import PageContent, is_json_route, respond
from server.worker_requests import CLIENT_CLOSED_REQUEST, collect
from store import ComparedDictionaries, Store

EDGES = [round(0.05 * place, 2) for place in range(21)]
WAIT_SECONDS = 4.0
"""how long the page waits for the model worker, which takes long to start; its JSON waits to the end"""
STARTING = (
    "Directions are not compared yet: the model worker is starting or busy. Load the page again in a moment."
)
ERRORS = (400, 404, 422, 429, 503, 504)
HOLDS = ("specific", "partial", "weak")
"""verdicts of names that say something"""

Done = TypeVar("Done")

router = PageRouter()


class CompareQuery(FormQuery):
    """Which dictionaries, which of the left one's features, and a text to read with both."""

    model: str | None = Field(None, max_length=200)
    left: str | None = Field(None, max_length=200, description="`<layer>-<set>`")
    right: str | None = Field(None, max_length=200, description="`<layer>-<set>`")
    text: FormText | None = Field(None, description="a text to read with both")
    relation: Relation | None = None
    verdict: Verdict | None = None
    live: bool | None = True
    sort: Literal["relation_low", "share", "density", "cosine", "name", "index"] = Field(
        "relation_low", description="`relation_low` is the lower end of the share's interval"
    )
    descending: bool = True
    limit: int = Field(25, ge=1, le=100)
    cursor: str | None = Field(None, max_length=1000, description="`next` of the page before")


@router.page("/compare", ComparePage, api="/compare", navigation="Compare", errors=ERRORS)
async def page(
    request: Request, store: OpenStore, worker: Worker, query: Annotated[CompareQuery, Query()]
) -> Response:
    """Two dictionaries of one model. Without `left` or `right`, two of one layer are chosen; one that only
    another model has counts as not given: the form sends it when another model is chosen.
    """
    async with contextmanager_in_threadpool(store.held()) as held:
        return await _page(request, held, worker, query)


async def _page(request: Request, store: Store, worker: WorkerClient, query: CompareQuery) -> Response:
    compared = await run_in_threadpool(_compared, store, query)
    notes = list[str]()
    patience = None if is_json_route(request) or query.text else WAIT_SECONDS
    read = None
    try:
        matching = asyncio.wait_for(_matched(request, store, worker, compared), patience)
        matched = await _or_note(request, notes, "Directions were not compared", matching)
        if query.text:
            reading = _read(request, store, worker, compared, query.text)
            read = await _or_note(request, notes, "The text was not read", reading)
    except _ClientGone:
        return CLIENT_CLOSED_REQUEST
    record = await run_in_threadpool(_record, store, compared, matched, read, notes)
    pair = {"model": record.model, "left": record.left.source, "right": record.right.source}
    given = query.model_dump(exclude_defaults=True, exclude={*pair, "cursor"})
    models = await run_in_threadpool(lambda: store.home().models)
    context = {"models": models, "text": query.text or "", "query": {**pair, **given}}
    return respond(request, PageContent(record, "compare.html", context=context))


async def _or_note(request: Request, notes: list[str], what: str, work: Awaitable[Done]) -> Done | None:
    """What the work gives; None and a note where it cannot be done: the rest is shown all the same. To a
    program, a worker that has no time for it is an error. Raises WorkerRefused.
    """
    try:
        return await work
    except TimeoutError:
        notes.append(STARTING)
    except WorkerRefused as error:
        if is_json_route(request) and error.status in (429, 504):
            raise
        notes.append(f"{what}. {error}")
    except HTTPException as error:
        notes.append(f"{what}. {error.detail}")
    return None


class _ClientGone(Exception):
    """The client has disconnected."""


def _compared(store: Store, query: CompareQuery) -> ComparedDictionaries:
    model = query.model
    left, right = (_unless_of_another(store, model, source) for source in (query.left, query.right))
    if model is None or left is None or right is None:
        model, *usual = store.comparable(model)
        left = left or next(source for source in usual if source != right)
        right = right or next(source for source in usual if source != left)
    if left == right:
        raise HTTPException(422, f"left and right are both {left!r}: choose two dictionaries")
    return store.compare(model, left, right, query.filters())


def _unless_of_another(store: Store, model: str | None, source: str | None) -> str | None:
    """The source; None where it is not the model's, but another's."""
    indexed = store.identities()
    other = (model, source) not in indexed and any(source == own for _, own in indexed)
    return None if model is not None and other else source


async def _matched(
    request: Request, store: Store, worker: WorkerClient, compared: ComparedDictionaries
) -> RawMatches:
    """The matches of the shown features, then of the sample. Raises WorkerRefused, and HTTPException where
    weights are missing.
    """
    model = await run_in_threadpool(IndexedModel, store, compared.left.model)
    left, right = (model.with_weights(own.source) for own in (compared.left, compared.right))
    job = MatchJob(
        left=dictionary_path(left),
        right=dictionary_path(right),
        indices=[*(feature.index for feature in compared.features), *compared.sample],
        random=len(compared.sample),
    )
    events = await collect(request, worker, job)
    if events is None:
        raise _ClientGone
    [last] = events
    if isinstance(last, SteerError):
        raise WorkerRefused(last.status, last.detail)
    assert isinstance(last, RawMatches)
    return last


async def _read(
    request: Request, store: Store, worker: WorkerClient, compared: ComparedDictionaries, text: str
) -> ReadResponse:
    """Raises WorkerRefused, and HTTPException where weights are missing."""
    sources = [compared.left.source, compared.right.source]
    body = ReadRequest(model=compared.left.model, text=text, sources=sources, positions=[])
    job, places = await run_in_threadpool(read_job, store, body)
    events = await collect(request, worker, job)
    if events is None:
        raise _ClientGone
    return await run_in_threadpool(read_response, store, body, job, places, events)


def _record(
    store: Store,
    compared: ComparedDictionaries,
    matched: RawMatches | None,
    read: ReadResponse | None,
    notes: list[str],
) -> ComparePage:
    right = f"{compared.right.model}/{compared.right.source}"
    nearest: Sequence[FeatureRef | None] = [None] * len(compared.features)
    cosines: Sequence[float | None] = [None] * len(compared.features)
    summary = None
    if matched is not None:
        refs = refs_by_id(store, [f"{right}/{index}" for index in matched.nearest])
        found = [refs[f"{right}/{index}"] for index in matched.nearest]
        n = len(compared.features)
        nearest, cosines = found[:n], matched.cosines[:n]
        left = f"{compared.left.model}/{compared.left.source}"
        own = refs_by_id(store, [f"{left}/{index}" for index in compared.sample])
        pairs = list(zip(own.values(), found[n:], strict=True))
        named = [store.named_alike(*pair) for pair in pairs if pair[0].verdict in HOLDS]
        summary = _summary(named, matched.cosines[n:], matched.random_cosines)
    return ComparePage(
        build=compared.build,
        model=compared.left.model,
        left=compared.left,
        right=compared.right,
        summary=summary,
        filters=compared.filters,
        matches=[
            FeatureMatch(feature=feature, nearest=near, cosine=cosine, named=named)
            for feature, near, cosine, named in zip(
                compared.features, nearest, cosines, compared.named, strict=True
            )
        ],
        next=compared.next,
        previous=compared.previous,
        read=read,
        notes=notes,
    )


def _summary(named: Sequence[bool], cosines: Sequence[float], chance: Sequence[float]) -> MatchSummary | None:
    """`named`: for each judged feature, whether the nearest has its name. None where no feature is live."""
    if not cosines:
        return None
    counts = [sum(low <= value < high for value in cosines) for low, high in pairwise(EDGES)]
    counts[-1] += sum(value >= 1 for value in cosines)
    return MatchSummary(
        sampled=len(cosines),
        median=median(cosines),
        share_08=sum(value >= 0.8 for value in cosines) / len(cosines),
        share_05=sum(value >= 0.5 for value in cosines) / len(cosines),
        random_median=median(chance),
        judged=len(named),
        same_name=sum(named) / len(named) if named else None,
        cosines=Histogram(edges=EDGES, counts=counts, zeros=sum(value < 0 for value in cosines)),
    )
