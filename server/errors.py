"""Every error, as a page or as JSON, is one `ErrorRecord`: what was wrong, what would be right, what was kept
safe.
"""

import logging

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, Response
from starlette.exceptions import HTTPException

from lexiscope.errors import LexiscopeError
from lexiscope.records import ErrorRecord
from server.responses import Pages, as_json
from store import BadCursor, NotFound, StoreError

STATUS: dict[type[StoreError], int] = {NotFound: 404, BadCursor: 400, StoreError: 503}
"""by the first that fits: what is not the reader's mistake is an index that cannot be read now"""

log = logging.getLogger("lexiscope.server")


def install(app: FastAPI) -> None:
    """Answer every exception of every route with an ErrorRecord."""
    app.add_exception_handler(LexiscopeError, _domain)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _unexpected)


def error_response(
    request: Request, status: int, error: str, *, kept: str = "", headers: dict[str, str] | None = None
) -> Response:
    """One error in the form this reader asked for."""
    record = ErrorRecord(status=status, error=error, kept=kept)
    headers = {"cache-control": "no-store", **(headers or {})}
    if wants_json(request):
        return Response(record.model_dump_json(), status, headers, "application/json")
    pages: Pages = request.app.state.pages
    return HTMLResponse(
        pages.html("error.html", page=record, json_url="", path=request.url.path, charts={}), status, headers
    )


def wants_json(request: Request) -> bool:
    """True on `.json` addresses, for anything but GET, and for readers that accept JSON and not HTML."""
    accept = request.headers.get("accept", "")
    if as_json(request) or request.url.path.endswith(".json") or request.method not in ("GET", "HEAD"):
        return True
    return "application/json" in accept and "text/html" not in accept


async def _domain(request: Request, error: Exception) -> Response:
    status = next((code for kind, code in STATUS.items() if isinstance(error, kind)), 500)
    return error_response(
        request, status, str(error), kept=error.kept if isinstance(error, StoreError) else ""
    )


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    complaints = []
    for entry in error.errors():
        name = (
            ".".join(str(part) for part in entry["loc"] if part not in ("query", "path", "body")) or "request"
        )
        given = entry.get("input")
        was = f" (was {given[:80]!r})" if isinstance(given, str) else ""
        complaints.append(f"{name}: {entry['msg']}{was}")
    return error_response(request, 422, "; ".join(complaints))


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    detail = str(error.detail)
    if error.status_code == 404 and detail == "Not Found":
        detail = f"there is no page {request.url.path[:200]}: / lists every dictionary, /search?q= finds features by name"
    return error_response(request, error.status_code, detail, headers=dict(error.headers or {}))


async def _unexpected(request: Request, error: Exception) -> Response:
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return error_response(
        request, 500, f"the server failed on this request ({type(error).__name__}); its log has the details"
    )
