"""People's own labels of features: written, listed, searched (`/labels` too), exported, removed."""

import csv
import io
from collections.abc import Iterator
from typing import Annotated, Literal

from fastapi import Path, Query, Request
from fastapi.responses import Response, StreamingResponse
from starlette.exceptions import HTTPException

from lexiscope.records import Label, LabelList, LabelRequest
from server.dependencies import KeyName, OpenLabels, OpenStore
from server.errors import error_responses
from server.page_router import API, PageRouter
from server.pages import FeatureIndex, ModelId, SourceName
from server.responses import PageContent, json_response, respond
from store import MOST_ID, Store

OF_FEATURE = f"{API}/features/{{model}}/{{source}}/{{index:number}}/labels"
A_PAGE = 50
"""labels of a page, unless another number is asked for"""
LabelId = Annotated[int, Path(ge=1, le=MOST_ID, description="`id` of the label", examples=[1])]

router = PageRouter()


@router.post(
    OF_FEATURE,
    status_code=201,
    response_model=Label,
    responses=error_responses(400, 401, 404, 413, 415, 429, 503),
)
def add(
    store: OpenStore,
    labels: OpenLabels,
    key: KeyName,
    model: ModelId,
    source: SourceName,
    index: FeatureIndex,
    body: LabelRequest,
) -> Label:
    """Label a feature. The author is the key's name where keys are on."""
    _check(store, model, source, index)
    if key and body.author not in ("", key):
        raise HTTPException(422, f"author: this key writes as {key!r}, not as {body.author!r}")
    identity = store.identities()[model, source]
    return labels.add(model, source, index, body, author=key or body.author, identity=identity)


@router.get(OF_FEATURE, response_model=LabelList, responses=error_responses(401, 404, 429, 503))
def of_feature(
    store: OpenStore, labels: OpenLabels, model: ModelId, source: SourceName, index: FeatureIndex
) -> Response:
    """A feature's labels, the latest first."""
    _check(store, model, source, index)
    found = labels.of_feature(model, source, index, store.identities())
    return json_response(LabelList(labels=found))


@router.delete(f"{OF_FEATURE}/{{label_id}}", status_code=204, responses=error_responses(401, 404, 429, 503))
def remove(
    labels: OpenLabels,
    key: KeyName,
    model: ModelId,
    source: SourceName,
    index: Annotated[int, Path(lt=2**63, description="the feature's number", examples=[17])],
    label_id: LabelId,
) -> None:
    """Remove a label; where keys are on, one of the key's own."""
    labels.remove(model, source, index, label_id, author=key or None)


@router.page("/labels", LabelList, api="/labels", errors=(401, 429, 503))
def search(
    request: Request,
    store: OpenStore,
    labels: OpenLabels,
    q: Annotated[str, Query(max_length=200, description="a text in the label, the note or the author")] = "",
    model: Annotated[str | None, Query(max_length=200)] = None,
    source: Annotated[str | None, Query(max_length=200)] = None,
    author: Annotated[str | None, Query(max_length=80)] = None,
    before: Annotated[int | None, Query(ge=1, le=MOST_ID, description="`next` of the page before")] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = A_PAGE,
) -> Response:
    """Labels that hold a text, the latest first."""
    found = labels.search(
        store.identities(),
        query=q,
        model=model,
        source=source,
        author=author,
        before=before,
        limit=limit + 1,
    )
    more = found[limit - 1].id if len(found) > limit else None
    given = {"q": q, "model": model, "source": source, "author": author}
    narrowed = {name: value for name, value in given.items() if value}
    kept = narrowed if limit == A_PAGE else {**narrowed, "limit": limit}
    context = {"query": q, "narrowed": narrowed, "kept": kept, "before": before}
    return respond(request, PageContent(LabelList(labels=found[:limit], next=more), "labels.html", context))


EXPORTS: dict[int | str, dict[str, object]] = {
    200: {
        "content": {
            "application/x-ndjson": {"schema": {"type": "string"}},
            "text/csv": {"schema": {"type": "string"}},
        }
    }
}


@router.get(
    f"{API}/labels/export",
    response_class=StreamingResponse,
    responses={**EXPORTS, **error_responses(401, 429, 503)},
)
def export(
    store: OpenStore,
    labels: OpenLabels,
    format: Annotated[Literal["jsonl", "csv"], Query(description="one label a line, or a table")] = "jsonl",
) -> Response:
    """All labels, the latest first."""
    every = labels.every(store.identities())
    lines = _json_lines(every) if format == "jsonl" else _csv(every)
    kind = "application/x-ndjson" if format == "jsonl" else "text/csv; charset=utf-8"
    name = f'attachment; filename="labels.{format}"'
    return StreamingResponse(
        lines, media_type=kind, headers={"content-disposition": name, "cache-control": "no-store"}
    )


def _json_lines(every: Iterator[Label]) -> Iterator[str]:
    for one in every:
        yield one.model_dump_json(ensure_ascii=True) + "\n"


def _csv(every: Iterator[Label]) -> Iterator[str]:
    line = io.StringIO()
    writer = csv.DictWriter(line, list(Label.model_fields))
    writer.writeheader()
    yield line.getvalue()
    for one in every:
        line.seek(0)
        line.truncate()
        writer.writerow(one.model_dump())
        yield line.getvalue()


def _check(store: Store, model: str, source: str, index: FeatureIndex) -> None:
    """Raises NotFound."""
    store.feature_refs([f"{model}/{source}/{index}"])
