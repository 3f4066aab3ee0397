"""The one thread that uses the models. Jobs under way take turns, each up to its next pause; then every batch
makes a step.

A job's events are an async iterator for the one who asked. Leaving it early cancels the job: one that waits
gives up its place at once, one that runs is closed before the next pass.
"""

import asyncio
import logging
import math
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from lexiscope.errors import LexiscopeError
from server.live.batches import Batches, Pause, Work
from server.live.interventions import Cancelled
from server.live.messages import LAST, Event
from server.live.model_cache import NotLoadable
from server.live.queue import FairQueue
from server.live.records import SteerError

Run = Callable[[Batches, Callable[[], bool]], Work[None]]
"""Takes the batches and `cancelled`, and gives one job."""

LOAD_SECONDS = 0.005
"""how often a job that waits for another thread is looked at, when nothing else is to be done"""
SPEED_SECONDS = 10.0

log = logging.getLogger("lexiscope.worker")


class Ticket:
    """One request: waiting, under way, or over."""

    def __init__(self, run: Run, rows: int, give: Callable[[Event], object]) -> None:
        self.rows = rows
        self.give = give
        self.cancelled = threading.Event()
        self._run = run
        self._work: Work[None] | None = None
        self.started = 0.0
        self._seconds = self._deadline = math.inf

    def begin(self, batches: Batches, seconds: float) -> None:
        self._seconds, self._deadline = seconds, time.monotonic() + seconds
        self._work = self._run(batches, self.cancelled.is_set)

    def advance(self) -> Pause | None:
        """Give events up to the next pause; None when the job is over, its last event given."""
        assert self._work is not None
        if self.cancelled.is_set():
            self.close()
            return None
        try:
            if time.monotonic() > self._deadline:
                self.close()
                raise TimeoutError
            for found in self._work:
                if found is Pause.LOAD:  # reading weights from disk is not the request's doing
                    self._deadline = time.monotonic() + self._seconds
                if isinstance(found, Pause):
                    return found
                self.give(found)
        except Exception as error:  # the worker outlives whatever one job does
            self.give(refusal(error))
        return None

    def close(self) -> None:
        """End the job where it stands: its rows leave their batch."""
        if self._work is not None:
            self._work.close()


class Engine:
    """`rows` rows may be under way at once, and `queue` requests wait behind them, for at most `seconds` each
    once they run.
    """

    def __init__(self, *, queue: int, rows: int, seconds: float) -> None:
        self.queue = FairQueue[Ticket](queue)
        self.served = 0
        self._rows = rows
        self._seconds = seconds
        self._batches = Batches()
        self._running: list[Ticket] = []
        self._speeds: deque[tuple[float, int]] = deque()
        self._durations: deque[float] = deque([3.0], maxlen=20)
        self._news = threading.Condition()
        threading.Thread(target=self._loop, name="engine", daemon=True).start()

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def tokens_per_second(self) -> float:
        """Tokens written in the last seconds in which any were, all rows counted."""
        steps = list(self._speeds)
        return (
            sum(rows for _, rows in steps) / max(sum(seconds for seconds, _ in steps), 1e-9) if steps else 0.0
        )

    @property
    def retry_after(self) -> int:
        """Seconds after which a place may be free, from how long the last requests took."""
        mean = sum(self._durations) / len(self._durations)
        return min(60, max(1, math.ceil(mean * (1 + len(self.queue)) * 2 / self._rows)))

    @asynccontextmanager
    async def ask(self, run: Run, *, client: str = "", rows: int = 2) -> AsyncIterator[AsyncIterator[Event]]:
        """The events of `run`, which needs `rows` rows. Raises QueueFull."""
        loop, events = asyncio.get_running_loop(), asyncio.Queue[Event]()
        ticket = Ticket(run, rows, lambda event: loop.call_soon_threadsafe(events.put_nowait, event))
        self.queue.put(client, ticket)
        self._wake()
        try:
            yield _until_last(events)
        finally:
            ticket.cancelled.set()
            self.queue.take(ticket)
            self._wake()

    def _wake(self) -> None:
        with self._news:
            self._news.notify()

    def _loop(self) -> None:
        while True:
            with self._news:
                while not self._running and self.queue.peek() is None:
                    self._news.wait()
            self._admit()
            begun = time.perf_counter()
            pauses = [self._advance(ticket) for ticket in list(self._running)]
            try:
                rows = self._batches.step()
            except Exception:  # a batch's own errors reach its writers; this is ours
                log.exception("a step failed")
                self._batches, rows = Batches(), 0
            self._count(time.perf_counter() - begun, rows)
            if pauses and all(pause is Pause.LOAD for pause in pauses):
                time.sleep(LOAD_SECONDS)

    def _admit(self) -> None:
        """Begin the waiting requests, in their order, while there is room; one always fits."""
        while (ticket := self.queue.peek()) is not None:
            if self._running and sum(other.rows for other in self._running) + ticket.rows > self._rows:
                return
            if self.queue.take(ticket):
                self.served += 1
                ticket.begin(self._batches, self._seconds)
                ticket.started = time.monotonic()
                self._running.append(ticket)

    def _advance(self, ticket: Ticket) -> Pause | None:
        pause = ticket.advance()
        if pause is None:
            self._running.remove(ticket)
            self._durations.append(time.monotonic() - ticket.started)
        return pause

    def _count(self, seconds: float, rows: int) -> None:
        if rows:
            self._speeds.append((seconds, rows))
            while sum(seconds for seconds, _ in self._speeds) > SPEED_SECONDS:
                self._speeds.popleft()


async def _until_last(events: "asyncio.Queue[Event]") -> AsyncIterator[Event]:
    while True:
        event = await events.get()
        yield event
        if event.event in LAST:
            return


def refusal(error: Exception) -> SteerError:
    """The last event of a job that failed."""
    match error:
        case Cancelled():
            return SteerError(status=499, error="The request was cancelled.")
        case TimeoutError():
            return SteerError(
                status=504,
                error="The request took longer than a request may. What was written stands; ask for less.",
            )
        case NotLoadable():
            return SteerError(status=503, error=str(error))
        case LexiscopeError():
            return SteerError(status=422, error=str(error))
    log.error("a job failed", exc_info=error)
    return SteerError(
        status=500,
        error=f"The model worker failed on this request ({type(error).__name__}); its log has the details.",
    )
