"""A worker that is there but does nothing: stopped, or in a pass that does not return."""

import asyncio
import os
import signal
import time

import pytest

from lexiscope.settings import Settings
from server import serve
from server.live import WorkerClient, WorkerRefused, client, spawn_worker
from server.live.scheduler import Scheduler
from tests.live.jobs import finish

pytestmark = pytest.mark.slow


def test_a_hung_worker_ends_all_its_requests_and_is_replaced(tiny, monkeypatch):
    async def hang(worker):
        own, statuses = WorkerClient(worker), []
        async with own.submit(tiny.job((0, 3, "add", 1.0))) as events:
            assert [event async for event in events][-1].event == "done", "the model is in memory"
        monkeypatch.setattr(client, "HUNG_SECONDS", 4.0)
        monkeypatch.setattr(client, "HEALTH_SECONDS", 1.0)
        async with own.submit(tiny.job((0, 3, "add", 1.0), max_tokens=256)) as events:
            await anext(events)
            os.kill(worker.pid, signal.SIGSTOP)
            begun = time.monotonic()
            with pytest.raises(WorkerRefused) as refused:
                await own.health()
            statuses.append(refused.value.status)

            async def other():
                try:
                    async with own.submit(tiny.job((0, 3, "add", 1.0))):
                        return 200  # nothing had been sent, so that the new worker could take it
                except WorkerRefused as refused:
                    return refused.status

            waiting = asyncio.ensure_future(other())
            statuses.append([event async for event in events][-1].status)
            statuses.append(await waiting)
        seconds = time.monotonic() - begun
        monkeypatch.undo()
        async with own.submit(tiny.job((0, 3, "add", 1.0))) as events:
            last = [event async for event in events][-1].event
        return statuses, seconds, last

    with spawn_worker(Settings()) as worker:
        before = worker.pid
        (health, stream, waiting), seconds, last = finish(hang(worker))
        assert worker.pid != before
    assert health == 504 and last == "done"
    assert {stream, waiting} <= {200, 503, 504}, "whoever sees it first ends it; the others are told it died"
    assert seconds < 60


def test_a_hung_worker_of_several_web_processes_is_replaced(monkeypatch):
    monkeypatch.setenv("LEXISCOPE_WORKER_URL", "")
    monkeypatch.setattr(serve, "HUNG_SECONDS", 3.0)
    with spawn_worker(Settings()) as worker:
        monkeypatch.setattr(serve, "spawn_worker", lambda *_, **__: worker)
        with serve._shared_worker(Settings()):
            before = worker.pid
            time.sleep(2)
            os.kill(before, signal.SIGSTOP)
            deadline = time.monotonic() + 60
            while worker.pid in (before, None) and time.monotonic() < deadline:
                time.sleep(0.2)
            assert worker.pid != before
            worker.ensure()


def test_a_pass_that_does_not_return_is_said_by_the_workers_health():
    scheduler = Scheduler(queue=4, rows=4, seconds=0.2)

    def job(batches, cancelled):
        time.sleep(1)
        yield from ()

    async def submitted():
        async with scheduler.submit(job):
            stalled = [scheduler.stalled]
            await asyncio.sleep(0.6)
            return [*stalled, scheduler.stalled]

    assert finish(submitted()) == [False, True]
