"""What a request may raise."""

import httpx
from pydantic import ValidationError

from lexiscope.records import ErrorRecord


class RequestFailed(Exception):
    """The server's answer is an error; `problem` has its status and its words."""

    def __init__(self, problem: ErrorRecord) -> None:
        super().__init__(" ".join(filter(None, [f"{problem.status}: {problem.detail}", problem.kept])))
        self.problem = problem


class NotFound(RequestFailed):
    """A model, dictionary, feature or token that the index does not hold."""


class InvalidRequest(RequestFailed):
    """A value that is out of range, a name that does not exist, or a cursor of another index build."""


class KeyNeeded(RequestFailed):
    """The server wants an API key, or does not know the one it got."""


class Busy(RequestFailed):
    """The server cannot answer now, and retries did not help: 429 or 503."""


class Unreachable(Exception):
    """No server answers at the address, or the connection broke."""


def failure(problem: ErrorRecord) -> RequestFailed:
    kinds: dict[int, type[RequestFailed]] = {401: KeyNeeded, 404: NotFound, 429: Busy, 503: Busy}
    kinds |= dict.fromkeys((400, 413, 415, 422), InvalidRequest)
    return kinds.get(problem.status, RequestFailed)(problem)


def problem_of(response: httpx.Response) -> ErrorRecord:
    """The problem details of a response that was read; those of a proxy, say, are made from its status."""
    try:
        return ErrorRecord.model_validate_json(response.content)
    except ValidationError:
        detail = f"{response.url} answered {response.reason_phrase or 'an error'}"
        return ErrorRecord(status=response.status_code, detail=detail)
