"""How a record becomes an answer: the page through its template, or the same record as JSON when the route
ends in `.json`.

Both carry an ETag made of the index build, the address and the templates, so that a browser asks again and
gets 304 until any of them changes.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from fastapi import Request
from fastapi.responses import HTMLResponse, Response
from jinja2 import Environment, FileSystemLoader
from pydantic import BaseModel

from lexiscope.measures import DICTIONARY, FEATURE, placed
from lexiscope.records import VERDICT_WORDS, measured_values
from server import histograms, markup
from store import Store

FRONTEND = Path(__file__).parent.parent / "frontend"
NOTHING: Mapping[str, Any] = {}


class Answerable(NamedTuple):
    """A page's record and how it is shown."""

    record: BaseModel
    template: str
    charts: Mapping[str, str] = NOTHING
    """name → Plotly figure as JSON; drawn over what the page shows without them"""
    beside: Mapping[str, Any] = NOTHING
    """what the template needs beside the record to show it: a legend"""


class Pages:
    """The templates, ready to render."""

    def __init__(self, frontend: Path = FRONTEND) -> None:
        self.environment = Environment(
            loader=FileSystemLoader(frontend / "templates"), autoescape=True, trim_blocks=False
        )
        self.environment.globals |= {
            "verdict_words": VERDICT_WORDS,
            "markup": markup,
            "FEATURE": FEATURE,
            "DICTIONARY": DICTIONARY,
            "placed": placed,
            "measured_values": measured_values,
            "position_bins": histograms.position_bins,
            "quartiles": histograms.quartiles,
            "shape": histograms.shape,
        }
        self.fingerprint = _fingerprint(frontend)

    def html(self, template: str, **context: Any) -> str:
        return self.environment.get_template(template).render(**context)


def respond(request: Request, answer: Answerable) -> Response:
    """The record as this route shows it."""
    if as_json(request):
        return Response(
            answer.record.model_dump_json(),
            media_type="application/json",
            headers=_headers(request, answer.record),
        )
    pages: Pages = request.app.state.pages
    html = pages.html(
        answer.template,
        page=answer.record,
        json_url=json_url(request),
        path=request.url.path,
        charts=answer.charts,
        **answer.beside,
    )
    return HTMLResponse(html, headers=_headers(request, answer.record))


def not_modified(request: Request) -> Response | None:
    """304 when the reader already has this page of this build."""
    known = request.headers.get("if-none-match")
    store: Store = request.app.state.store
    if known is None:
        return None
    tag = etag(request, store.build_id())
    if tag in {entry.strip().removeprefix("W/") for entry in known.split(",")}:
        return Response(status_code=304, headers={"etag": tag, "cache-control": "no-cache"})
    return None


def as_json(request: Request) -> bool:
    """True on a `.json` route. The route decides, not the address: a name may end in `.json`."""
    route = request.scope.get("route")
    return str(getattr(route, "path", "")).endswith(".json")


def json_url(request: Request) -> str:
    """The address of this page's JSON twin, its query included."""
    path = "/index" if request.url.path == "/" else quote(request.url.path)
    return f"{path}.json" + (f"?{request.url.query}" if request.url.query else "")


def etag(request: Request, build: str) -> str:
    pages: Pages = request.app.state.pages
    address = f"{request.url.path}?{request.url.query} {pages.fingerprint}"
    return f'"{build}-{hashlib.sha256(address.encode()).hexdigest()[:16]}"'


def _headers(request: Request, record: BaseModel) -> dict[str, str]:
    build = getattr(record, "build", None)
    return {"cache-control": "no-cache"} | ({} if build is None else {"etag": etag(request, build)})


def _fingerprint(frontend: Path) -> str:
    """Changes when any template or static file, or the server's own code, does."""
    here = [*sorted(frontend.rglob("*.*")), *sorted(Path(__file__).parent.glob("*.py"))]
    stamps = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in here if path.is_file()]
    return hashlib.sha256(repr(stamps).encode()).hexdigest()[:16]
