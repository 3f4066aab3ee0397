"""Reading on the web: the features that are active on a text. The page, its `.json` twin and `POST
/api/v1/read` give the same record; the page and its twin list all active features of one token only.
"""

from typing import Annotated, NamedTuple
from urllib.parse import urlencode

from fastapi import Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import Field, ValidationError
from starlette.exceptions import HTTPException

from lexiscope.records.live import ReadResponse
from lexiscope.records.requests import ReadRequest
from server.dependencies import OpenStore, Worker
from server.errors import error_responses, unknown_model
from server.kept_studies import dark_matter
from server.live import WorkerClient, WorkerRefused
from server.page_router import PageRouter
from server.pages import FormQuery, FormText
from server.read_examples import EXAMPLES
from server.read_response import check_positions, read_response
from server.requests_to_jobs import read_job
from server.responses import PageContent, is_json_route, json_response, respond
from server.worker_requests import CLIENT_CLOSED_REQUEST, collect
from store import NotFound, Store

ERRORS = (404, 422, 429, 503, 504)

router = PageRouter()


class ReadQuery(FormQuery):
    """A ReadRequest as a form sends it, and the token whose features are listed on the page."""

    model: str = Field("", max_length=200)
    text: FormText = ""
    contrast: FormText = ""
    source: list[Annotated[str, Field(max_length=200)]] = Field(
        [], max_length=64, description="dictionaries to read with"
    )
    chat: bool = Field(False, description="read the texts by the model's chat template")
    raw: bool = Field(False, description="do not subtract the text's mean code")
    min_cosine: float = Field(0.0, ge=-1, le=1)
    k: int = Field(
        0, ge=0, le=100_000, description="read with the k strongest features of a token; 0: as trained"
    )
    feature: str = Field(
        "", max_length=500, description="one feature whose activation is shown at every token"
    )
    token: int | None = Field(
        None,
        ge=0,
        lt=1_000_000,
        description="the token of `text` whose active features are listed; none unless given",
    )

    def request(self) -> ReadRequest:
        """Raises RequestValidationError."""
        try:
            return ReadRequest(
                model=self.model,
                text=self.text,
                contrast=self.contrast or None,
                chat=self.chat,
                sources=self.source,
                subtract_mean=not self.raw,
                min_cosine=self.min_cosine,
                feature=self.feature or None,
                k=self.k or None,
                positions=[] if self.token is None else [self.token],
            )
        except ValidationError as error:
            raise RequestValidationError(error.errors()) from error


@router.post("/api/v1/read", response_model=ReadResponse, responses=error_responses(*ERRORS, 400, 413, 415))
async def read(request: Request, body: ReadRequest, store: OpenStore, worker: Worker) -> Response:
    """All active features of every token, the table of layers and tokens, the features of the whole text, and
    the features that differ between two texts.
    """
    response = await _read(request, body, store, worker)
    return CLIENT_CLOSED_REQUEST if response is None else json_response(response)


@router.page("/read", ReadResponse, navigation="Read", errors=ERRORS)
async def page(
    request: Request, store: OpenStore, worker: Worker, query: Annotated[ReadQuery, Query()]
) -> Response:
    """The active features of a text; without a text, an empty form."""
    models = await run_in_threadpool(lambda: store.home().models)
    known = [entry.model for entry in models]
    default = query.feature.split("/")[0] if query.feature else (known[0] if known else "")
    query = query.model_copy(update={"model": query.model or default})
    record, failure = None, Failure()
    if query.text:
        try:
            read = await _read(request, query.request(), store, worker)
            if read is not None and query.token is not None:
                check_positions([query.token], len(read.texts[0].tokens))
            record = read
        except (NotFound, WorkerRefused, HTTPException) as error:
            if is_json_route(request):
                raise
            failure = Failure.of(error)
        if record is None and not failure.words:
            return CLIENT_CLOSED_REQUEST
    elif known and query.model not in known and not is_json_route(request):
        failure = Failure(unknown_model(query.model, known), 404)
    elif is_json_route(request):
        raise HTTPException(422, "text: give the text to read, for example /read.json?text=Once+upon+a+time")
    form = query.model_dump(exclude={"token"})
    context = {
        "models": models,
        "form": form,
        "address": urlencode({name: value for name, value in form.items() if value}, doseq=True),
        "token": query.token,
        "examples": EXAMPLES,
        "failure": failure.words,
        "dark_matter": dark_matter(request.app.state.settings.studies, query.model),
    }
    response = respond(request, PageContent(record, "read.html", context=context))
    response.status_code = failure.status
    return response


class Failure(NamedTuple):
    """Why a page shows no reading. The form stays as it was filled in."""

    words: str = ""
    status: int = 200

    @classmethod
    def of(cls, error: NotFound | WorkerRefused | HTTPException) -> "Failure":
        if isinstance(error, HTTPException):
            return cls(str(error.detail), error.status_code)
        return cls(str(error), error.status if isinstance(error, WorkerRefused) else 404)


async def _read(
    request: Request, body: ReadRequest, store: Store, worker: WorkerClient
) -> ReadResponse | None:
    """None if the client has disconnected. Raises NotFound, WorkerRefused and HTTPException."""
    job, places = await run_in_threadpool(read_job, store, body)
    events = await collect(request, worker, job)
    if events is None:
        return None
    return await run_in_threadpool(read_response, store, body, job, places, events)
