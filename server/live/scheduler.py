"""The thread that uses the models. Jobs in progress take turns, each up to its next pause; then every batch
makes one step.

The events of a job are an async iterator. Leaving it early cancels the job: a waiting job gives up its place
at once, a running job is closed before the next pass.
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
from lexiscope.records.live import SteerError
from server.live.generation import Batches, JobSteps, Pause
from server.live.interventions import Cancelled
from server.live.messages import LAST_EVENTS, Event
from server.live.model_cache import NotLoadable
from server.live.problems import without_folders
from server.live.queue import FairQueue

StartJob = Callable[[Batches, Callable[[], bool]], JobSteps[None]]
"""Takes the batches and `cancelled`, and returns the job."""

LOAD_SECONDS = 0.005
"""pause between two turns while all jobs wait for files"""
SPEED_SECONDS = 10.0
"""seconds of steps over which the speed is averaged"""
FIRST_DURATION = 3.0
"""seconds a request is expected to take before any has finished"""

log = logging.getLogger("lexiscope.worker")


class ScheduledJob:
    """One request: waiting, running, or finished. It needs `rows` rows in a batch."""

    def __init__(self, start: StartJob, rows: int, send: Callable[[Event], object]) -> None:
        self.rows = rows
        self.send = send
        self.cancelled = threading.Event()
        self.started = 0.0
        self._start = start
        self._steps: JobSteps[None] | None = None
        self._seconds = self._deadline = math.inf

    def begin(self, batches: Batches, seconds: float) -> None:
        self.started = time.monotonic()
        self._seconds, self._deadline = seconds, self.started + seconds
        self._steps = self._start(batches, self.cancelled.is_set)

    def advance(self) -> Pause | None:
        """Send events up to the next pause. None if the job is finished; its last event was sent."""
        assert self._steps is not None
        if self.cancelled.is_set():
            self.close()
            return None
        try:
            if time.monotonic() > self._deadline:
                self.close()
                raise TimeoutError
            for step in self._steps:
                if step is Pause.LOAD:  # time spent on loading weights does not count
                    self._deadline = time.monotonic() + self._seconds
                if isinstance(step, Pause):
                    return step
                self.send(step)
        except Exception as error:  # no error of a job may end the thread
            self.send(error_event(error))
        return None

    def close(self) -> None:
        """End the job; its rows leave their batch."""
        if self._steps is not None:
            self._steps.close()


class Scheduler:
    """At most `rows` rows are generated at once. `queue` more requests may wait. A request may run for
    `seconds`.
    """

    def __init__(self, *, queue: int, rows: int, seconds: float) -> None:
        self.queue = FairQueue[ScheduledJob](queue)
        self.served = 0
        self._rows = rows
        self._seconds = seconds
        self._batches = Batches()
        self._running: list[ScheduledJob] = []
        self._turned = time.monotonic()
        """when the thread last took a turn"""
        self._speeds: deque[tuple[float, int]] = deque()
        self._durations: deque[float] = deque([FIRST_DURATION], maxlen=20)
        self._changed = threading.Condition()
        threading.Thread(target=self._loop, name="scheduler", daemon=True).start()

    @property
    def running(self) -> int:
        """Number of jobs in progress."""
        return len(self._running)

    @property
    def stalled(self) -> bool:
        """Whether one turn has taken longer than a whole request may: a pass of the model does not return."""
        return bool(self._running) and time.monotonic() - self._turned > self._seconds

    @property
    def tokens_per_second(self) -> float:
        """Generated tokens of all rows per second, over the last steps that generated any."""
        steps = list(self._speeds)
        if not steps:
            return 0.0
        return sum(rows for _, rows in steps) / max(sum(seconds for seconds, _ in steps), 1e-9)

    @property
    def retry_after(self) -> int:
        """Seconds until a place in the queue is probably free, from the durations of the last requests."""
        mean = sum(self._durations) / len(self._durations)
        return min(60, max(1, math.ceil(mean * (1 + len(self.queue)) * 2 / self._rows)))

    @asynccontextmanager
    async def submit(
        self, start: StartJob, *, client: str = "", rows: int = 2
    ) -> AsyncIterator[AsyncIterator[Event]]:
        """The events of a job that needs `rows` rows. Leaving the block cancels the job. Raises QueueFull."""
        loop, events = asyncio.get_running_loop(), asyncio.Queue[Event]()
        job = ScheduledJob(start, rows, lambda event: loop.call_soon_threadsafe(events.put_nowait, event))
        self.queue.put(client, job)
        self._wake()
        try:
            yield _until_last(events)
        finally:
            job.cancelled.set()
            self.queue.take(job)
            self._wake()

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify()

    def _loop(self) -> None:
        while True:
            with self._changed:
                while not self._running and self.queue.peek() is None:
                    self._changed.wait()
            self._turned = time.monotonic()
            self._admit()
            begun = time.perf_counter()
            pauses = [self._advance(job) for job in list(self._running)]
            try:
                rows = self._batches.step()
            except Exception:  # errors of a pass go to the jobs in the batch; this one is a defect
                log.exception("a step failed")
                self._batches, rows = Batches(), 0
            self._record_speed(time.perf_counter() - begun, rows)
            if pauses and all(pause is Pause.LOAD for pause in pauses):
                time.sleep(LOAD_SECONDS)

    def _admit(self) -> None:
        """Start waiting jobs in order while there is room. If no job is running, the next always starts."""
        while (job := self.queue.peek()) is not None:
            if self._running and sum(other.rows for other in self._running) + job.rows > self._rows:
                return
            if self.queue.take(job):
                self.served += 1
                job.begin(self._batches, self._seconds)
                self._running.append(job)

    def _advance(self, job: ScheduledJob) -> Pause | None:
        pause = job.advance()
        if pause is None:
            self._running.remove(job)
            self._durations.append(time.monotonic() - job.started)
        return pause

    def _record_speed(self, seconds: float, rows: int) -> None:
        if rows:
            self._speeds.append((seconds, rows))
            while sum(seconds for seconds, _ in self._speeds) > SPEED_SECONDS:
                self._speeds.popleft()


async def _until_last(events: "asyncio.Queue[Event]") -> AsyncIterator[Event]:
    while True:
        event = await events.get()
        yield event
        if event.event in LAST_EVENTS:
            return


def error_event(error: Exception) -> SteerError:
    """The last event of a job that failed."""
    match error:
        case Cancelled():
            return SteerError(status=499, detail="The request was cancelled.")
        case TimeoutError():
            return SteerError(
                status=504,
                detail="The request took longer than the time limit. The text generated so far is kept. "
                "Request fewer tokens.",
            )
        case NotLoadable():
            log.error("%s", error)
            return SteerError(status=503, detail=without_folders(str(error)))
        case LexiscopeError():
            return SteerError(status=422, detail=without_folders(str(error)))
    log.error("a job failed", exc_info=error)
    return SteerError(
        status=500,
        detail=f"The model worker failed on this request ({type(error).__name__}). See its log for details.",
    )
