"""A page's record as a response: HTML through its template, or JSON if the route ends in `.json`.

Both have an ETag made of the index build, the address and the templates. A browser that sends it back gets
304 until one of them changes; others get what was answered before, while it is kept (`server/answers.py`).
"""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote

from fastapi import Request
from fastapi.responses import Response
from jinja2 import Environment, FileSystemLoader
from jinja2.ext import Extension
from pydantic import BaseModel

from lexiscope.measures import DERIVED, DICTIONARY, FEATURE, RUN, placed
from lexiscope.progress import read_progress
from lexiscope.records import NUMBERS, RELATION_WORDS, VERDICT_WORDS, WRITE_VERDICT_WORDS, measured_values
from server import charts, histograms, markup
from server.answers import Answers, takes_gzip
from store import Store

FRONTEND = Path(__file__).parent.parent / "frontend"
EMPTY: Mapping[str, Any] = {}
HTML = "text/html; charset=utf-8"
PROTECTION = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data: blob:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}
"""headers of every response: no script, style, frame or request but the site's own, and none within a page.
Images are drawn from `data:` and `blob:` where a chart is exported.
"""


Piece = TypeVar("Piece")


def started(pieces: Iterator[Piece]) -> Iterator[Piece]:
    """The pieces of a file, at least one, with the first made already: an error in it is a response of its
    own.
    """
    return chain([next(pieces)], pieces)


class PageContent(NamedTuple):
    """A page's record and how it is shown."""

    record: BaseModel | None
    """None for a page that is only a form"""
    template: str
    context: Mapping[str, Any] = EMPTY
    """variables of the template that are not in the record"""
    state: str = ""
    """of what is in the context and changes without a new build"""


class _WithoutIndentation(Extension):
    """Removes the indentation of templates, which is for their readers: a page has it thousands of times."""

    def preprocess(self, source: str, name: str | None, filename: str | None = None) -> str:
        return re.sub("^ +", "", source, flags=re.MULTILINE)


class Templates:
    """The Jinja templates. `navigation` has the links of the site's header."""

    def __init__(self, frontend: Path = FRONTEND, *, navigation: Sequence[tuple[str, str]] = ()) -> None:
        self.environment = Environment(
            loader=FileSystemLoader(frontend / "templates"),
            autoescape=True,
            extensions=[_WithoutIndentation],
        )
        self.environment.globals |= {
            "navigation": navigation,
            "verdict_words": VERDICT_WORDS,
            "write_verdict_words": WRITE_VERDICT_WORDS,
            "relation_words": RELATION_WORDS,
            "charts": charts,
            "markup": markup,
            "FEATURE": FEATURE,
            "NUMBERS": NUMBERS,
            "DERIVED": DERIVED,
            "DICTIONARY": DICTIONARY,
            "RUN": RUN,
            "placed": placed,
            "measured_values": measured_values,
            "position_bins": histograms.position_bins,
            "shape": histograms.shape,
        }
        self.fingerprint = _fingerprint(frontend)

    def html(self, template: str, **context: Any) -> str:
        return self.environment.get_template(template).render(**context)


def respond(request: Request, content: PageContent) -> Response:
    """The record, as the route's HTML or JSON."""
    record = content.record
    if is_json_route(request):
        assert record is not None, "only pages with a record have a JSON twin"
        return indexed_json(request, record)
    templates: Templates = request.app.state.templates
    html = templates.html(
        content.template,
        page=record,
        json_url="" if record is None else json_url(request),
        **content.context,
    )
    return _response(request, html, HTML, _headers(request, record, state=content.state))


def indexed_json(request: Request, record: BaseModel, *, build: str | None = None) -> Response:
    """A record of the index as JSON; `build` is given for a record that does not have it."""
    headers = _headers(request, record, build)
    return _response(request, record.model_dump_json(), "application/json", headers)


def _response(request: Request, body: str, media_type: str, headers: dict[str, str]) -> Response:
    """The answer, which is kept where the handler looked for a kept one (`not_modified`)."""
    if getattr(request.state, "looked_up", False) and "etag" in headers:
        answers: Answers = request.app.state.answers
        return answers.respond(request, body, media_type, headers)
    return Response(body, media_type=media_type, headers=headers)


def json_response(record: BaseModel) -> Response:
    """A record as the response of a REST call, which no cache may store."""
    return Response(
        record.model_dump_json(), media_type="application/json", headers={"cache-control": "no-store"}
    )


def not_modified(request: Request, *, state: str = "") -> Response | None:
    """What needs no work: 304 if the browser already has this page of this build, or the page as it was
    answered before; else None. `state` as in PageContent.
    """
    store: Store = request.app.state.store
    answers: Answers = request.app.state.answers
    build = store.build_id()
    tag = etag(request, build, state)
    known = request.headers.get("if-none-match", "")
    if tag in {entry.strip().removeprefix("W/") for entry in known.split(",")}:
        return Response(status_code=304, headers={"etag": tag, "cache-control": "no-cache"})
    request.state.looked_up = True
    if kept := answers.get(tag):
        headers = headers_of_build(request, build, state)
        return kept.response(headers, packed=takes_gzip(request.headers))
    return None


def building(request: Request) -> bool:
    """Whether a build of the index runs beside this server."""
    return read_progress(request.app.state.settings.index).state == "running"


def is_json_route(request: Request) -> bool:
    """True on a `.json` route and under `/api/`. The route decides, not the address: the name of a set may
    end in `.json`.
    """
    path = str(getattr(request.scope.get("route"), "path", ""))
    return path.endswith(".json") or path.startswith("/api/")


def json_url(request: Request) -> str:
    """The address of this page's JSON twin, with its query."""
    path = "/index" if request.url.path == "/" else quote(request.url.path)
    return f"{path}.json" + (f"?{request.url.query}" if request.url.query else "")


def etag(request: Request, build: str, state: str = "") -> str:
    templates: Templates = request.app.state.templates
    address = f"{request.url.path}?{request.url.query} {templates.fingerprint} {state}"
    return f'"{build}-{hashlib.sha256(address.encode()).hexdigest()[:16]}"'


def _headers(
    request: Request, record: BaseModel | None, build: str | None = None, state: str = ""
) -> dict[str, str]:
    """An ETag for a record of an index build, and leave to keep it where the address names the build; other
    records are not stored.
    """
    build = build or getattr(record, "build", None)
    return {"cache-control": "no-store"} if build is None else headers_of_build(request, build, state)


def headers_of_build(request: Request, build: str, state: str = "") -> dict[str, str]:
    """Those of a response that follows from an index build; `state` as in PageContent."""
    kept = "no-cache"
    if is_json_route(request) and request.query_params.get("build") == build:
        who = "private" if getattr(request.state, "key_name", "") else "public"
        kept = f"{who}, max-age=31536000, immutable"
    return {"cache-control": kept, "etag": etag(request, build, state)}


def _fingerprint(frontend: Path) -> str:
    """Changes when a template, a static file or a module of the server changes."""
    files = [*sorted(frontend.rglob("*.*")), *sorted(Path(__file__).parent.glob("*.py"))]
    stamps = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files if path.is_file()]
    return hashlib.sha256(repr(stamps).encode()).hexdigest()[:16]
