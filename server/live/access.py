"""Who may use a worker on TCP, and for what: a shared secret, and the files of its own index."""

import secrets
from collections.abc import Iterator
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from lexiscope.records import ErrorRecord
from lexiscope.settings import Settings
from server.live.messages import Job
from server.live.problems import problem
from store import Store


class TokenRequired:
    """401 without `Authorization: Bearer` and the token; the worker's health needs it too."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self.app = app
        self._wanted = f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            given = Headers(scope=scope).get("authorization", "").encode()
            if not secrets.compare_digest(given, self._wanted):
                detail = "The worker needs the token that LEXISCOPE_WORKER_TOKEN gives to its server."
                refused = problem(ErrorRecord(status=401, detail=detail), {"www-authenticate": "Bearer"})
                await refused(scope, receive, send)
                return
        await self.app(scope, receive, send)


class IndexedFiles:
    """The models and checkpoints that the index names now."""

    def __init__(self, settings: Settings) -> None:
        self._store = Store(settings)

    def has_all(self, job: Job) -> bool:
        """Whether every file that a job would open is of the index. Raises StoreError."""
        known, asked = self._store.dictionaries(), job.model_dump()
        return all(
            {getattr(entry, name) for entry in known}.issuperset(filter(None, _every(name, asked)))
            for name in ("model_path", "checkpoint_path", "lens_path")
        )


def _every(name: str, value: Any) -> Iterator[str]:
    """What stands under `name` in a job, at any depth."""
    if isinstance(value, dict):
        if name in value:
            yield value[name]
        for inside in value.values():
            yield from _every(name, inside)
    elif isinstance(value, list):
        for inside in value:
            yield from _every(name, inside)
