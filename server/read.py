"""`/read`: which features fire on a text of one's own, by name. The page, its `.json` twin and `POST
/api/v1/read` are one function.
"""

from collections.abc import Sequence
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse, Response
from starlette.exceptions import HTTPException

from lexiscope.records import ErrorRecord
from server import attach_names
from server.attach_names import Means
from server.live import ReadJob, WorkerClient
from server.live.messages import Event, RawRead, RawReading, RawTokens
from server.live.records import Followed, ReadAnswer, ReadRequest, ReadText
from server.requests_to_jobs import Index
from server.responses import as_json
from server.steer import open_store
from server.worker_requests import GONE, open_worker, whole
from store import Place, Store

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorRecord} for status in (404, 422, 429, 503, 504)
}

router = APIRouter()


@router.post("/api/v1/read", response_model=ReadAnswer, responses=ERRORS)
async def read(
    request: Request,
    body: ReadRequest,
    store: Annotated[Store, Depends(open_store)],
    worker: Annotated[WorkerClient, Depends(open_worker)],
) -> Response:
    """Every firing feature of every token, the layers × tokens table, the features of the whole text, what
    tells two texts apart.
    """
    answer = await reading(request, body, store, worker)
    return GONE if answer is None else Response(answer.model_dump_json(), media_type="application/json")


@router.get("/read.json", response_model=ReadAnswer, responses=ERRORS)
@router.get("/read", include_in_schema=False)
async def page(
    request: Request,
    store: Annotated[Store, Depends(open_store)],
    worker: Annotated[WorkerClient, Depends(open_worker)],
    model: Annotated[str, Query(max_length=200)] = "",
    text: Annotated[str, Query(max_length=20_000)] = "",
    contrast: Annotated[str, Query(max_length=20_000)] = "",
    source: Annotated[list[str], Query(max_length=64, description="dictionaries to read with")] = [],  # noqa: B006 (FastAPI copies it)
    raw: Annotated[bool, Query(description="do not subtract the text's mean code")] = False,
    min_cosine: Annotated[float, Query(ge=-1, le=1)] = 0.0,
    feature: Annotated[str, Query(max_length=500, description="one feature to follow through the text")] = "",
    token: Annotated[
        int | None, Query(ge=0, description="the token whose firing features are listed")
    ] = None,
) -> Response:
    """Read a text by name; without a text, an empty form."""
    models = await run_in_threadpool(lambda: store.home().models)
    if feature and not model:
        model = feature.split("/")[0]
    model = model or (models[0].model if models else "")
    answer = None
    if text:
        given: dict[str, Any] = {
            "model": model,
            "text": text,
            "sources": source,
            "subtract_mean": not raw,
            "min_cosine": min_cosine,
        }
        body = ReadRequest(**given, contrast=contrast or None, feature=feature or None)
        answer = await reading(request, body, store, worker)
        if answer is None:
            return GONE
    elif as_json(request):
        raise HTTPException(422, "text: write the text to read, for example /read.json?text=Once+upon+a+time")
    if as_json(request) and answer is not None:
        return Response(answer.model_dump_json(), media_type="application/json")
    form = {
        "model": model,
        "text": text,
        "contrast": contrast,
        "source": source,
        "raw": raw,
        "min_cosine": min_cosine,
        "feature": feature,
    }
    html = request.app.state.pages.html(
        "read.html",
        models=models,
        form=form,
        address=urlencode({name: value for name, value in form.items() if value}, doseq=True),
        answer=answer,
        token=token
        if answer is not None and token is not None and token < len(answer.texts[0].tokens)
        else None,
        page=None,
        json_url=f"/read.json?{request.url.query}" if text else "",
        path=request.url.path,
        charts={},
    )
    return HTMLResponse(html, headers={"cache-control": "no-store"})


async def reading(
    request: Request, asked: ReadRequest, store: Store, worker: WorkerClient
) -> ReadAnswer | None:
    """The whole reading, by name; None when the client has gone. Raises NotFound and HTTPException."""
    job, places = await run_in_threadpool(_job, store, asked)
    events = await whole(request, worker, job)
    return None if events is None else await run_in_threadpool(_named, store, asked, job, places, events)


def _job(store: Store, asked: ReadRequest) -> tuple[ReadJob, list[Place]]:
    index = Index(store, asked.model)
    follow = None if asked.feature is None else index.located(index.by_id(asked.feature), maximum=True)
    places = index.chosen(asked.sources, follow)
    job = ReadJob(
        model=asked.model,
        model_path=index.model_path,
        texts=[asked.text] + ([] if asked.contrast is None else [asked.contrast]),
        sources=[index.source(place) for place in places],
        follow=follow,
    )
    return job, places


def _named(
    store: Store, asked: ReadRequest, job: ReadJob, places: Sequence[Place], events: Sequence[Event]
) -> ReadAnswer:
    readings = {(event.text, event.source): event for event in events if isinstance(event, RawReading)}
    [tokens] = [event.texts for event in events if isinstance(event, RawTokens)]
    [last] = [event for event in events if isinstance(event, RawRead)]
    means = {key: Means(raw) for key, raw in readings.items()}
    refs = attach_names.named(
        store, [f"{job.model}/{source}/{index}" for (_, source), mean in means.items() for index in mean.mean]
    )
    texts = []
    for number, shown in enumerate(tokens):
        layers = [
            attach_names.layer(
                readings[number, place.source],
                place,
                refs,
                means=means[number, place.source],
                subtract=asked.subtract_mean,
                min_cosine=asked.min_cosine,
            )
            for place in places
        ]
        top = {
            place.source: attach_names.summed(means[number, place.source], place, refs, asked.top)
            for place in places
        }
        texts.append(ReadText(tokens=shown, layers=layers, top=top))
    apart = {}
    if len(tokens) > 1:
        apart = {
            place.source: attach_names.contrasted(
                means[0, place.source], means[1, place.source], place, refs, asked.top
            )
            for place in places
        }
    followed = None
    if job.follow is not None and last.followed is not None:
        followed = Followed(
            feature=job.follow.feature, values=last.followed, max_activation=job.follow.max_activation or 0.0
        )
    return ReadAnswer(
        model=job.model, subtract_mean=asked.subtract_mean, texts=texts, contrast=apart, followed=followed
    )
