"""Every error is one `ErrorRecord`, as a page or as JSON: what was wrong, what would be right, what was
kept.
"""

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, Response
from starlette.exceptions import HTTPException

from lexiscope.errors import LexiscopeError
from lexiscope.records import ErrorRecord
from server.responses import Templates, is_json_route
from store import BadCursor, NotFound, StoreError

STATUS: dict[type[StoreError], int] = {NotFound: 404, BadCursor: 400, StoreError: 503}
"""the first class that matches decides; other errors of the store mean that the index cannot be read now"""

log = logging.getLogger("lexiscope.server")


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """A route's error responses, for the API reference."""
    return {status: {"model": ErrorRecord} for status in statuses}


def install(app: FastAPI) -> None:
    """Respond to every exception of every route with an ErrorRecord."""
    app.add_exception_handler(LexiscopeError, _domain_error)
    app.add_exception_handler(RequestValidationError, _invalid_request)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _unexpected_error)


def error_response(
    request: Request, status: int, error: str, *, kept: str = "", headers: dict[str, str] | None = None
) -> Response:
    """One error, as a page or as JSON."""
    record = ErrorRecord(status=status, error=error, kept=kept)
    headers = {"cache-control": "no-store", **(headers or {})}
    if wants_json(request):
        return Response(record.model_dump_json(), status, headers, "application/json")
    templates: Templates = request.app.state.templates
    return HTMLResponse(templates.html("error.html", page=record, json_url="", charts={}), status, headers)


def wants_json(request: Request) -> bool:
    """True on `.json` addresses, for methods other than GET and HEAD, and for clients that accept JSON but
    not HTML.
    """
    accept = request.headers.get("accept", "")
    if is_json_route(request) or request.url.path.endswith(".json"):
        return True
    if request.method not in ("GET", "HEAD"):
        return True
    return "application/json" in accept and "text/html" not in accept


async def _domain_error(request: Request, error: Exception) -> Response:
    status = next((code for kind, code in STATUS.items() if isinstance(error, kind)), 500)
    kept = error.kept if isinstance(error, StoreError) else ""
    return error_response(request, status, str(error), kept=kept)


async def _invalid_request(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    messages = []
    for entry in error.errors():
        place = (str(part) for part in entry["loc"] if part not in ("query", "path", "body"))
        name = ".".join(place) or "request"
        given = entry.get("input")
        value = f" (was {given[:80]!r})" if isinstance(given, str) else ""
        messages.append(f"{name}: {entry['msg']}{value}")
    return error_response(request, 422, "; ".join(messages))


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    detail = str(error.detail)
    if error.status_code == 404 and detail == "Not Found":
        detail = (
            f"there is no page {request.url.path[:200]}: / lists all dictionaries, "
            "/search?q= finds features by name"
        )
    return error_response(request, error.status_code, detail, headers=dict(error.headers or {}))


async def _unexpected_error(request: Request, error: Exception) -> Response:
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return error_response(
        request, 500, f"the server failed on this request ({type(error).__name__}); see its log for details"
    )
