"""Errors of the server and of its model worker as responses: one ErrorRecord, `application/problem+json`."""

import re

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from lexiscope.records import ErrorRecord

PROBLEM = "application/problem+json"
MAX_LISTED = 5
"""invalid values that one error describes"""


FOLDERS = re.compile(r"(?<![\w.:/~-])~?/(?:[^\s/'\"]+/)+(?=[^\s/'\"])")
"""the folders of an absolute path of two parts or more, not of a URL"""


def without_folders(text: str) -> str:
    """A message without this machine's folders: of an absolute path its last name stays."""
    return FOLDERS.sub("", text)


def problem(record: ErrorRecord, headers: dict[str, str] | None = None) -> Response:
    """An error that no cache may store."""
    headers = {"cache-control": "no-store", **(headers or {})}
    return Response(record.model_dump_json(), record.status, headers, PROBLEM)


def describe(error: RequestValidationError) -> str:
    """What is wrong with the values of a request, the first MAX_LISTED of them."""
    found = error.errors()
    messages = []
    for entry in found[:MAX_LISTED]:
        if entry["type"] == "json_invalid":
            messages.append(f"the body is not JSON: {entry['ctx']['error']} at character {entry['loc'][-1]}")
            continue
        place = ".".join(str(part)[:80] for part in entry["loc"] if part not in ("query", "path", "body"))
        given = entry.get("input")
        value = f" (was {given[:80]!r})" if isinstance(given, str) else ""
        messages.append(f"{place or 'request'}: {entry['msg'].removeprefix('Value error, ')}{value}")
    if len(found) > MAX_LISTED:
        messages.append(f"and {len(found) - MAX_LISTED} more")
    return "; ".join(messages)


def install(app: FastAPI) -> None:
    """Respond to every error of the worker with a problem. The server has pages, and handlers of its own."""

    async def invalid(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return problem(ErrorRecord(status=422, detail=describe(error)))

    async def http(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return problem(ErrorRecord(status=error.status_code, detail=error.detail), dict(error.headers or {}))

    async def unexpected(_: Request, error: Exception) -> Response:
        detail = f"The model worker failed on this request ({type(error).__name__})."
        return problem(ErrorRecord(status=500, detail=detail), {"connection": "close"})

    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(Exception, unexpected)
