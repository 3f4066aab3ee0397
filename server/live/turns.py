"""One generation at a time: jobs take turns in the order they came, and a bounded number may wait.

A turn is an async iterator of events. Leaving it early cancels its job: one that waits gives up its place at once, one that runs
stops at its next forward pass.
"""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager

from lexiscope.errors import LexiscopeError
from lexiscope.records import SteerDone, SteerError
from server.live.interventions import Cancelled
from server.live.shelf import NotLoadable
from server.live.wire import Event

Run = Callable[[Callable[[], bool]], Iterator[Event]]
"""Takes `cancelled` and gives the events of one job."""

log = logging.getLogger("lexiscope.worker")


class QueueFull(Exception):
    """As many jobs wait as may."""


class Turns:
    """`queue` jobs may wait behind the one that runs; `jobs` counts both."""

    def __init__(self, *, queue: int) -> None:
        self.queue = queue
        self.jobs = 0
        self.served = 0
        self.tokens_per_second = 0.0
        self._lock = threading.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="generate")

    @asynccontextmanager
    async def turn(self, run: Run) -> AsyncIterator[AsyncIterator[Event]]:
        """The events of `run`; the last is `done` or `error`. Raises QueueFull."""
        loop, events, cancelled = asyncio.get_running_loop(), asyncio.Queue[Event](), threading.Event()
        with self._lock:
            if self.jobs > self.queue:
                raise QueueFull
            self.jobs += 1
        future = self._thread.submit(self._run, run, cancelled, lambda event: loop.call_soon_threadsafe(events.put_nowait, event))
        try:
            yield _until_last(events)
        finally:
            cancelled.set()
            self._give_up(future)

    def _give_up(self, future: "Future[None]") -> None:
        if future.cancel():
            self._leave()

    def _leave(self) -> None:
        with self._lock:
            self.jobs -= 1

    def _run(self, run: Run, cancelled: threading.Event, give: Callable[[Event], object]) -> None:
        self.served += 1
        try:
            for event in run(cancelled.is_set):
                if isinstance(event, SteerDone):
                    self.tokens_per_second = event.tokens_per_second
                give(event)
        except Cancelled:
            give(SteerError(status=499, error="The request was cancelled."))
        except NotLoadable as error:
            give(SteerError(status=503, error=str(error)))
        except LexiscopeError as error:
            give(SteerError(status=422, error=str(error)))
        except Exception as error:  # the worker outlives whatever one job does
            log.exception("a job failed")
            what = f"The model worker failed on this request ({type(error).__name__}); its log has the details."
            give(SteerError(status=500, error=what))
        finally:
            self._leave()


async def _until_last(events: "asyncio.Queue[Event]") -> AsyncIterator[Event]:
    while True:
        event = await events.get()
        yield event
        if event.event in ("done", "error"):
            return
