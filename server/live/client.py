"""The web server's client of the model worker, over a unix domain socket or TCP, one connection for each job.

async with client.submit(job) as events:  # raises WorkerRefused before the first event
    async for event in events: ...  # the last is `done`, `swept`, `read` or `error`, even if the worker dies

A worker that is there but does nothing (a hung driver, a stopped process) keeps its connections open. So
while a job is under way its worker is also asked for its health; one that has not answered for HUNG_SECONDS
is ended, and every job on it gets a 504.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any, TypeVar
from urllib.parse import quote

import httpx
from pydantic import ValidationError

from lexiscope.errors import LexiscopeError
from lexiscope.records import ErrorRecord
from lexiscope.records.live import SteerError, WorkerHealth
from server.live.messages import EVENT, LAST_EVENTS, PATHS, Event, Job
from server.live.process import WorkerDown, WorkerProcess

TIMEOUT = httpx.Timeout(5, read=None)
HEALTH_SECONDS = 5.0
"""in which a worker answers for its health; also the time between two such questions"""
HUNG_SECONDS = 60.0
"""without an answer, after which a worker counts as hung; imports and large weights hold it up for less"""
JSON = {"content-type": "application/json"}
DIED = (
    "The model worker stopped during this request. The text generated so far is kept. "
    "The next request starts the worker again."
)
HUNG = (
    "The model worker has stopped responding, and this request was given up. The text generated so far is "
    "kept. Try again: the worker is started anew where the server owns it."
)

log = logging.getLogger("lexiscope.server")
T = TypeVar("T")


class _Hung(Exception):
    """The worker has answered nothing for HUNG_SECONDS."""


class WorkerRefused(LexiscopeError):
    """The worker rejected the job or cannot be reached. `status` and `retry_after` belong to the response."""

    def __init__(self, status: int, error: str, *, retry_after: str | None = None) -> None:
        super().__init__(error)
        self.status = status
        self.retry_after = retry_after


class WorkerClient:
    """Connects to a worker that this process owns, or to one at a URL (`http://host:port`, `unix:///path`),
    whose `token` it needs on TCP.
    """

    def __init__(self, worker: WorkerProcess | str, *, token: str = "") -> None:
        self._worker = worker if isinstance(worker, WorkerProcess) else None
        self.url = worker.url if isinstance(worker, WorkerProcess) else worker.rstrip("/")
        self._headers = {"authorization": f"Bearer {token}"} if token else {}

    @asynccontextmanager
    async def submit(self, job: Job, *, client: str = "") -> AsyncIterator[AsyncIterator[Event]]:
        """The events of `job`. Leaving the block cancels it. The requests of one `client` share its places in
        the queue. Raises WorkerRefused.
        """
        await self._ensure()
        watch = asyncio.ensure_future(self._until_hung())
        try:
            async with self._connection() as connection:
                try:
                    response = await _unless_hung(watch, self._send(connection, job, client))
                except _Hung:
                    raise WorkerRefused(504, HUNG, retry_after="5") from None
                try:
                    if response.status_code != 200:
                        raise await _refusal(response)
                    yield _events(response, watch)
                finally:
                    await response.aclose()
        finally:
            watch.cancel()

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
                answer = await connection.get("/healthz", timeout=HEALTH_SECONDS)
                return WorkerHealth.model_validate_json(answer.content)
            except httpx.ReadTimeout as error:
                raise WorkerRefused(504, "The model worker does not respond.", retry_after="5") from error
            except (httpx.TransportError, ValidationError) as error:
                raise self._unreachable() from error

    async def _until_hung(self) -> None:
        """Return when the worker has answered nothing for HUNG_SECONDS. An own worker has then been ended,
        and another one started. One that refuses connections is dead, not hung: the job's own tells.
        """
        process = self._worker.pid if self._worker is not None else None
        answered = time.monotonic()
        async with self._connection() as connection:
            while time.monotonic() - answered < HUNG_SECONDS:
                await asyncio.sleep(min(HEALTH_SECONDS, HUNG_SECONDS / 4))
                try:
                    health = await connection.get("/healthz", timeout=HEALTH_SECONDS)
                    hung = health.status_code == 503
                except httpx.TimeoutException:
                    hung = True
                except httpx.TransportError:
                    hung = False
                answered = answered if hung else time.monotonic()
        log.error("the model worker (process %s) has not responded for %.0f s", process, HUNG_SECONDS)
        if self._worker is not None and process is not None:
            await asyncio.to_thread(self._worker.replace, process)

    async def _ensure(self) -> None:
        if self._worker is None:
            return
        try:
            await asyncio.to_thread(self._worker.ensure)
        except WorkerDown as error:
            raise WorkerRefused(503, str(error), retry_after="5") from error

    def _unreachable(self) -> WorkerRefused:
        log.error("no model worker responds at %s", self.url)
        return WorkerRefused(503, "No model worker responds.", retry_after="5")

    def _connection(self) -> httpx.AsyncClient:
        if self.url.startswith("unix://"):
            path = self.url.removeprefix("unix://")
            transport = httpx.AsyncHTTPTransport(uds=path, verify=False)  # a socket file has no TLS
            return httpx.AsyncClient(
                transport=transport, base_url="http://worker", timeout=TIMEOUT, headers=self._headers
            )
        return httpx.AsyncClient(base_url=self.url, timeout=TIMEOUT, trust_env=False, headers=self._headers)


async def _unless_hung(watch: "asyncio.Future[None]", work: Awaitable[T]) -> T:
    """The result of `work`. Raises _Hung where `watch` ends first."""
    task = asyncio.ensure_future(work)
    either: set[asyncio.Future[Any]] = {task, watch}
    try:
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise _Hung
        return task.result()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def _refusal(response: httpx.Response) -> WorkerRefused:
    try:
        error = ErrorRecord.model_validate_json(await response.aread()).detail
    except (httpx.TransportError, ValidationError):
        error = f"The model worker responded with status {response.status_code}."
    return WorkerRefused(response.status_code, error, retry_after=response.headers.get("retry-after"))


async def _events(response: httpx.Response, watch: "asyncio.Future[None]") -> AsyncIterator[Event]:
    lines = response.aiter_lines()
    try:
        while True:
            event = EVENT.validate_json(await _unless_hung(watch, anext(lines)))
            yield event
            if event.event in LAST_EVENTS:
                return
    except _Hung:
        yield SteerError(status=504, detail=HUNG)
    except (httpx.TransportError, ValidationError, StopAsyncIteration):
        yield SteerError(status=503, detail=DIED)
