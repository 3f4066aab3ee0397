"""How the web server asks the model worker: over a unix domain socket or TCP, one connection a job.

async with client.ask(job) as events:        # WorkerRefused before anything is streamed
    async for event in events: ...           # ends with `done`, `swept`, `read` or `error`, also when the worker dies half-way
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import quote

import httpx
from pydantic import ValidationError

from lexiscope.errors import LexiscopeError
from lexiscope.records import ErrorRecord
from server.live.messages import EVENT, LAST, PATHS, Event, Health, Job
from server.live.process import Worker, WorkerDown
from server.live.records import SteerError

TIMEOUT = httpx.Timeout(5, read=None)
JSON = {"content-type": "application/json"}
DIED = "The model worker stopped in the middle of this request. What was written stands; the next request starts it again."


class WorkerRefused(LexiscopeError):
    """The worker did not take the job, or cannot be reached. `status` and `retry_after` are the answer's."""

    def __init__(self, status: int, error: str, *, retry_after: str | None = None) -> None:
        super().__init__(error)
        self.status = status
        self.retry_after = retry_after


class WorkerClient:
    """Speaks to a worker this process owns, or to one at a URL (`http://host:port`, `unix:///path`)."""

    def __init__(self, worker: Worker | str) -> None:
        self._worker = worker if isinstance(worker, Worker) else None
        self.url = worker.url if isinstance(worker, Worker) else worker.rstrip("/")

    @asynccontextmanager
    async def ask(self, job: Job, *, client: str = "") -> AsyncIterator[AsyncIterator[Event]]:
        """The events of `job`; leaving the block cancels it. Requests of one `client` wait for its own first.
        Raises WorkerRefused.
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
        self, connection: httpx.AsyncClient, job: Job, client: str, *, again: bool = True
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
            if self._worker is not None and again and (await asyncio.to_thread(self._worker.lost) or refused):
                await (
                    self._ensure()
                )  # a socket whose process has just died may still take a connection, and drop it
                return await self._send(connection, job, client, again=False)
            if refused:
                raise WorkerRefused(
                    503, f"No model worker answers at {self.url}.", retry_after="5"
                ) from error
            raise WorkerRefused(503, DIED, retry_after="1") from error

    async def health(self) -> Health:
        """Raises WorkerRefused."""
        await self._ensure()
        async with self._connection() as connection:
            try:
                return Health.model_validate_json((await connection.get("/healthz")).content)
            except (httpx.TransportError, ValidationError) as error:
                raise WorkerRefused(
                    503, f"No model worker answers at {self.url}.", retry_after="5"
                ) from error

    async def _ensure(self) -> None:
        if self._worker is None:
            return
        try:
            await asyncio.to_thread(self._worker.ensure)
        except WorkerDown as error:
            raise WorkerRefused(503, str(error), retry_after="5") from error

    def _connection(self) -> httpx.AsyncClient:
        if self.url.startswith("unix://"):
            transport = httpx.AsyncHTTPTransport(
                uds=self.url.removeprefix("unix://"), verify=False
            )  # no TLS on a socket file
            return httpx.AsyncClient(transport=transport, base_url="http://worker", timeout=TIMEOUT)
        return httpx.AsyncClient(base_url=self.url, timeout=TIMEOUT, trust_env=False)


async def _refusal(response: httpx.Response) -> WorkerRefused:
    try:
        error = ErrorRecord.model_validate_json(await response.aread()).error
    except (httpx.TransportError, ValidationError):
        error = f"The model worker answered {response.status_code}."
    return WorkerRefused(response.status_code, error, retry_after=response.headers.get("retry-after"))


async def _events(response: httpx.Response) -> AsyncIterator[Event]:
    try:
        async for line in response.aiter_lines():
            event = EVENT.validate_json(line)
            yield event
            if event.event in LAST:
                return
    except (httpx.TransportError, ValidationError):
        pass
    yield SteerError(status=503, error=DIED)
