"""The web server's client of the model worker, over a unix domain socket or TCP, one connection for each job.

async with client.submit(job) as events:  # raises WorkerRefused before the first event
    async for event in events: ...  # the last is `done`, `swept`, `read` or `error`, even if the worker dies
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import quote

import httpx
from pydantic import ValidationError

from lexiscope.errors import LexiscopeError
from lexiscope.records import ErrorRecord
from lexiscope.records.live import SteerError, WorkerHealth
from server.live.messages import EVENT, LAST_EVENTS, PATHS, Event, Job
from server.live.process import WorkerDown, WorkerProcess

TIMEOUT = httpx.Timeout(5, read=None)
JSON = {"content-type": "application/json"}
DIED = (
    "The model worker stopped during this request. The text generated so far is kept. "
    "The next request starts the worker again."
)


class WorkerRefused(LexiscopeError):
    """The worker rejected the job or cannot be reached. `status` and `retry_after` belong to the response."""

    def __init__(self, status: int, error: str, *, retry_after: str | None = None) -> None:
        super().__init__(error)
        self.status = status
        self.retry_after = retry_after


class WorkerClient:
    """Connects to a worker that this process owns, or to one at a URL (`http://host:port`, `unix:///path`)."""

    def __init__(self, worker: WorkerProcess | str) -> None:
        self._worker = worker if isinstance(worker, WorkerProcess) else None
        self.url = worker.url if isinstance(worker, WorkerProcess) else worker.rstrip("/")

    @asynccontextmanager
    async def submit(self, job: Job, *, client: str = "") -> AsyncIterator[AsyncIterator[Event]]:
        """The events of `job`. Leaving the block cancels it. The requests of one `client` share its places in
        the queue. Raises WorkerRefused.
        """
        await self._ensure()
        async with self._connection() as connection:
            response = await self._send(connection, job, client)
            try:
                if response.status_code != 200:
                    raise await _refusal(response)
                yield _events(response)
            finally:
                await response.aclose()

    async def _send(
        self, connection: httpx.AsyncClient, job: Job, client: str, *, retry: bool = True
    ) -> httpx.Response:
        request = connection.build_request(
            "POST",
            PATHS[type(job)],
            content=job.model_dump_json(),
            headers=JSON | {"lexiscope-client": quote(client)},
        )
        try:
            return await connection.send(request, stream=True)
        except httpx.TransportError as error:
            refused = isinstance(error, httpx.ConnectError)
            # the socket of a process that has just died may still accept a connection and then drop it
            died = self._worker is not None and retry and await asyncio.to_thread(self._worker.has_died)
            if self._worker is not None and retry and (died or refused):
                await self._ensure()
                return await self._send(connection, job, client, retry=False)
            if refused:
                raise self._unreachable() from error
            raise WorkerRefused(503, DIED, retry_after="1") from error

    async def health(self) -> WorkerHealth:
        """Raises WorkerRefused."""
        await self._ensure()
        async with self._connection() as connection:
            try:
                return WorkerHealth.model_validate_json((await connection.get("/healthz")).content)
            except (httpx.TransportError, ValidationError) as error:
                raise self._unreachable() from error

    async def _ensure(self) -> None:
        if self._worker is None:
            return
        try:
            await asyncio.to_thread(self._worker.ensure)
        except WorkerDown as error:
            raise WorkerRefused(503, str(error), retry_after="5") from error

    def _unreachable(self) -> WorkerRefused:
        return WorkerRefused(503, f"No model worker responds at {self.url}.", retry_after="5")

    def _connection(self) -> httpx.AsyncClient:
        if self.url.startswith("unix://"):
            path = self.url.removeprefix("unix://")
            transport = httpx.AsyncHTTPTransport(uds=path, verify=False)  # a socket file has no TLS
            return httpx.AsyncClient(transport=transport, base_url="http://worker", timeout=TIMEOUT)
        return httpx.AsyncClient(base_url=self.url, timeout=TIMEOUT, trust_env=False)


async def _refusal(response: httpx.Response) -> WorkerRefused:
    try:
        error = ErrorRecord.model_validate_json(await response.aread()).detail
    except (httpx.TransportError, ValidationError):
        error = f"The model worker responded with status {response.status_code}."
    return WorkerRefused(response.status_code, error, retry_after=response.headers.get("retry-after"))


async def _events(response: httpx.Response) -> AsyncIterator[Event]:
    try:
        async for line in response.aiter_lines():
            event = EVENT.validate_json(line)
            yield event
            if event.event in LAST_EVENTS:
                return
    except (httpx.TransportError, ValidationError):
        pass
    yield SteerError(status=503, detail=DIED)
