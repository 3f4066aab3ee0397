"""Every error is one `ErrorRecord`, as a page or as problem details (RFC 9457): what was wrong, what would
be right, what was kept.
"""

import errno
import logging
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, Response
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Match, Mount
from starlette.types import Scope

from lexiscope.errors import LexiscopeError
from lexiscope.records import ErrorRecord
from server.live import WorkerDown, WorkerRefused
from server.live.problems import PROBLEM, describe, problem
from server.responses import PROTECTION, Templates, building, is_json_route
from store import BadCursor, Conflict, NoIndex, NotFound, StoreError

STATUS: dict[type[StoreError], int] = {NotFound: 404, BadCursor: 400, Conflict: 409, StoreError: 503}
"""the first class that matches decides; other errors of the store mean that the index cannot be read now"""

NOTHING_LEFT = {
    errno.EMFILE: "the server has too many files open",
    errno.ENFILE: "the server's machine has too many files open",
    errno.ENOMEM: "the server has no memory left",
    errno.ENOSPC: "the server's disk is full",
    errno.EDQUOT: "the server's disk is full",
}
"""errors of the system that pass"""

log = logging.getLogger("lexiscope.server")


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """A route's error responses, for the API reference."""
    content = {PROBLEM: {"schema": {"$ref": "#/components/schemas/ErrorRecord"}}}
    return {status: {"description": HTTPStatus(status).phrase, "content": content} for status in statuses}


def unknown_model(model: str, known: Sequence[str]) -> str:
    return f"the index has no model {model[:200]!r}; its models are: {', '.join(known) or 'none'}"


def install(app: FastAPI) -> None:
    """Respond to every exception of every route with an ErrorRecord."""
    app.add_exception_handler(LexiscopeError, _domain_error)
    app.add_exception_handler(RequestValidationError, _invalid_request)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _unexpected_error)


def error_response(
    request: Request,
    status: int,
    detail: str,
    *,
    kept: str = "",
    headers: dict[str, str] | None = None,
    first_page: str = "",
) -> Response:
    """One error, as a page or as problem details. The page links `first_page`, an address, where given."""
    record = ErrorRecord(status=status, detail=detail, kept=kept)
    if wants_json(request):
        return problem(record, headers)
    headers = {"cache-control": "no-store", **(headers or {})}
    templates: Templates = request.app.state.templates
    html = templates.html("error.html", page=record, json_url="", first_page=first_page)
    return HTMLResponse(html, status, headers)


def wants_json(request: Request) -> bool:
    """True on `.json` addresses and under `/api/`, for methods other than GET and HEAD, and for clients that
    accept JSON but not HTML.
    """
    accept = request.headers.get("accept", "")
    if request.url.path in ("/healthz", "/readyz") or is_json_route(request):
        return True
    if request.url.path.endswith(".json") or request.url.path.startswith("/api/"):
        return True
    if request.method not in ("GET", "HEAD"):
        return True
    return "json" in accept and "text/html" not in accept


async def _domain_error(request: Request, error: Exception) -> Response:
    if isinstance(error, WorkerRefused):
        again = {"retry-after": error.retry_after} if error.retry_after else None
        return error_response(request, error.status, str(error), headers=again)
    if isinstance(error, WorkerDown):
        return error_response(request, 503, str(error), headers={"retry-after": "5"})
    if not isinstance(error, StoreError):
        return await _unexpected_error(request, error)
    status = next(code for kind, code in STATUS.items() if isinstance(error, kind))
    if isinstance(error, NoIndex) and building(request):
        detail = "the index is being built: /progress says how far it is"
        return error_response(request, status, detail, headers={"retry-after": "10"})
    if status == 503:
        log.error("the index cannot be read: %s", error)
    first_page = ""
    if isinstance(error, BadCursor):
        first = request.url.remove_query_params("cursor")
        first_page = f"{quote(first.path)}?{first.query}"
    return error_response(request, status, error.public, kept=error.kept, first_page=first_page)


async def _invalid_request(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return error_response(request, 422, describe(error))


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    detail, headers = str(error.detail), dict(error.headers or {})
    path = request.url.path
    if error.status_code == 405:
        allowed = _allowed(request)
        headers = {"allow": ", ".join(allowed)}
        if request.method == "OPTIONS":
            return Response(status_code=204, headers=headers)
        detail = f"{path[:200]} is for {', '.join(allowed)}, not for {request.method[:20]}"
    if error.status_code == 404 and detail == "Not Found":
        if path.endswith("/") and len(path) <= 200:
            detail = (
                f"there is no page {path}: addresses have no slash at their end, {path.rstrip('/') or '/'}"
            )
        else:
            detail = (
                f"there is no page {path[:200]}: / lists all dictionaries, /search?q= finds features by name"
            )
    if error.status_code == 400 and error.__cause__ is not None:
        detail = f"the body cannot be read as JSON: {error.__cause__}"
    return error_response(request, error.status_code, detail, headers=headers)


def _allowed(request: Request) -> list[str]:
    """The methods of all routes at the request's address."""
    methods = {"OPTIONS"}
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
        asked = {**request.scope, "method": method, "root_path": request.scope.get("app_root_path", "")}
        if any(_matches(route, asked) for route in request.app.router.routes):
            methods |= {"GET", "HEAD"} if method == "GET" else {method}
    return sorted(methods)


def _matches(route: BaseRoute, asked: Scope) -> bool:
    """Whether a route takes a request. Files, which are mounted, are only read."""
    if isinstance(route, Mount) and asked["method"] != "GET":
        return False
    return route.matches(asked)[0] is Match.FULL


async def _unexpected_error(request: Request, error: Exception) -> Response:
    own = getattr(request.state, "request_id", "")
    if isinstance(error, OSError) and error.errno in NOTHING_LEFT:
        log.error("%s", error)
        detail = f"{NOTHING_LEFT[error.errno]}: try again later"
        return error_response(request, 503, detail, headers={**PROTECTION, "retry-after": "10"})
    log.error("%s %s failed (request %s)", request.method, request.url.path, own, exc_info=error)
    return error_response(
        request,
        500,
        f"the server failed on this request ({type(error).__name__}); see its log for details",
        headers={**PROTECTION, "connection": "close"},  # no middleware sees it, and the connection is closed
    )
