"""The worker process: a bounded queue, cancellation, and restart after it died."""

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from lexiscope.checkpoint import load_checkpoint
from lexiscope.records import Token
from lexiscope.settings import Settings
from server.live import WorkerClient, WorkerRefused, spawn_worker
from tests.live.jobs import finish

LONG = {"max_tokens": 256}
MAPS = Path("/proc/self/maps")


async def until(condition, *, seconds=30.0):
    """Seconds until the asynchronous `condition` holds."""
    begun = time.monotonic()
    while not await condition():
        assert time.monotonic() - begun < seconds
        await asyncio.sleep(0.01)
    return time.monotonic() - begun


def whole(events):
    return [event.model_dump(exclude={"tokens_per_second"}) for event in events]


def test_the_same_job_gives_the_same_events(tiny, ask):
    job = tiny.job((0, 3, "add", 1.0), (1, 4, "ablate", 0.0))
    assert whole(ask(job)) == whole(ask(job))


SEPARATORS = "a\u2028b\u2029c\x85d"
"""line separators of Unicode, which a reader of lines may split at"""


def test_an_event_whose_text_holds_line_separators_arrives_whole(tiny, ask):
    feature = tiny.does(0, 3, "add", 1.0)
    name = Token(id=feature.feature.name.id, shown=SEPARATORS)
    named = feature.model_copy(update={"feature": feature.feature.model_copy(update={"name": name})})
    first, *_, last = ask(tiny.job(named))
    assert first.features[0].name.shown == SEPARATORS and last.event == "done"


def test_concurrent_steers_leave_each_others_default_unchanged(tiny, worker, ask):
    alone = ask(tiny.job((0, 3, "add", 0.0), max_tokens=30))[-1].default_text

    async def together():
        client = WorkerClient(worker)

        async def one(strength):
            async with client.submit(
                tiny.job((0, 3, "add", strength), (1, 4, "ablate", 0.0), max_tokens=30)
            ) as events:
                return [event async for event in events][-1]

        return await asyncio.gather(one(1.0), one(-2.0), one(4.0))

    done = finish(together())
    assert {one.default_text for one in done} == {alone}
    assert len({one.steered_text for one in done}) > 1


def test_a_closed_connection_cancels_the_job(tiny, worker, ask):
    before = ask(tiny.job((0, 3, "add", 0.0)))
    begun = time.monotonic()
    ask(tiny.job((0, 3, "add", 1.0), **LONG))
    whole_job = time.monotonic() - begun

    async def leave():
        client = WorkerClient(worker)
        async with client.submit(tiny.job((0, 3, "add", 1.0), **LONG)) as events:
            assert (await anext(events)).event == "resolved"
        return await until(idle(client))

    assert min(finish(leave()) for _ in range(3)) < whole_job / 2
    assert whole(ask(tiny.job((0, 3, "add", 0.0)))) == whole(before)


def idle(client):
    async def condition():
        health = await client.health()
        return not health.running and not health.waiting

    return condition


def test_a_full_queue_rejects_requests_until_a_waiting_one_is_cancelled(tiny, narrow):
    async def crowd():
        client = WorkerClient(narrow)

        async def steer():
            async with client.submit(tiny.job((0, 3, "add", 1.0), **LONG)) as events:
                async for _ in events:
                    pass

        async def waiting(number):
            return (await client.health()).waiting == number

        async def under_way():
            return (await client.health()).running == 1

        running = [asyncio.create_task(steer())]
        await until(
            under_way
        )  # else the three may arrive before the first is begun, and a client may have two waiting
        running += [asyncio.create_task(steer()) for _ in range(2)]
        await until(lambda: waiting(2))
        with pytest.raises(WorkerRefused) as refused:
            await steer()
        assert refused.value.status == 429 and int(refused.value.retry_after) > 0
        running[2].cancel()
        await until(lambda: waiting(1))
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await until(idle(client))

    finish(crowd())


@pytest.mark.parametrize("change", [{"prompt": ""}, {"prompt": "a" * 100_000}])
def test_a_prompt_that_does_not_fit_is_422_before_the_stream(tiny, ask, change):
    with pytest.raises(WorkerRefused) as refused:
        ask(tiny.job((0, 3, "add", 1.0), **change))
    assert refused.value.status == 422


def test_a_missing_model_is_503_with_its_name_and_not_its_folder(tiny, ask):
    with pytest.raises(WorkerRefused, match="gone, which the index") as refused:
        ask(tiny.job((0, 3, "add", 1.0)).model_copy(update={"model_path": "/srv/lab/gone"}))
    assert refused.value.status == 503 and "/" not in str(refused.value)


@pytest.mark.slow
def test_a_killed_worker_ends_the_stream_with_an_error_and_is_restarted(tiny):
    async def killed(worker):
        client = WorkerClient(worker)
        async with client.submit(tiny.job((0, 3, "add", 1.0), **LONG)) as events:
            await anext(events)
            os.kill(worker.pid, signal.SIGKILL)
            last = [event async for event in events][-1]
        assert last.event == "error" and last.status == 503
        async with client.submit(tiny.job((0, 3, "add", 1.0))) as events:
            assert [event async for event in events][-1].event == "done"

    with spawn_worker(Settings()) as worker:
        finish(killed(worker))
        folder, pid = worker.socket.parent, worker.pid
    assert not folder.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_an_unreachable_worker_is_503(tiny):
    async def nobody():
        async with WorkerClient("unix:///nowhere/socket").submit(tiny.job()):
            pass

    with pytest.raises(WorkerRefused, match="No model worker responds") as refused:
        finish(nobody())
    assert refused.value.status == 503


def test_one_client_cannot_fill_the_queue_for_the_others(tiny, narrow):
    async def crowd():
        client, done = WorkerClient(narrow), []

        async def steer(who, max_tokens=20):
            async with client.submit(
                tiny.job((0, 3, "add", 1.0), max_tokens=max_tokens), client=who
            ) as events:
                async for _ in events:
                    pass
            done.append(who)

        async def holds(running, waiting):
            health = await client.health()
            return (health.running, health.waiting) == (running, waiting)

        greedy = []
        for number in range(3):
            greedy.append(asyncio.create_task(steer("greedy", 20 if number else 256)))
            await until(lambda number=number: holds(1, number))
        with pytest.raises(WorkerRefused):
            await steer("greedy")
        await asyncio.gather(steer("modest"), *greedy)
        assert done.index("modest") < 3, done

    finish(crowd())


@pytest.mark.slow
def test_a_request_over_the_time_limit_is_504(tiny):
    async def late(worker):
        try:
            async with WorkerClient(worker).submit(tiny.job((0, 3, "add", 1.0), **LONG)) as events:
                return [event async for event in events][-1].status
        except WorkerRefused as refused:  # the time was up before the first event
            return refused.status

    with spawn_worker(Settings(worker_seconds=0.2)) as worker:
        finish(late(worker))  # loads the model
        assert finish(late(worker)) == 504


@pytest.mark.skipif(not MAPS.exists(), reason="the system does not say what a process has mapped")
def test_dictionary_weights_are_memory_mapped(tiny):
    from server.live.model_cache import ModelCache

    loaded = ModelCache().dictionary(tiny.checkpoints[0])
    maps = MAPS.read_text()
    assert loaded.dictionary.W_dec.shape[0] and f"{tiny.checkpoints[0]}/sae_weights.safetensors" in maps


def test_a_model_or_a_dictionary_that_was_moved_is_said(tmp_path):
    from server.live.model_cache import ModelCache, NotLoadable

    gone, cache = str(tmp_path / "gone"), ModelCache()
    for load in (lambda: cache.model(gone, "tiny"), lambda: cache.dictionary(gone)):
        with pytest.raises(
            NotLoadable, match=r"gone, which the index refers to, is no longer there\. Move it"
        ):
            load()


def test_a_model_with_other_weights_than_the_indexed_one_is_refused(tiny, ask, model):
    job = tiny.job((0, 3, "add", 1.0))
    assert ask(job.model_copy(update={"model_identity": model.identity}))[-1].event == "done"
    with pytest.raises(WorkerRefused, match=r"not the model that was indexed as tiny.*--model-id"):
        ask(job.model_copy(update={"model_identity": "000000000000"}))


def test_a_dictionary_with_other_weights_than_the_indexed_one_is_refused(tiny, ask):
    own = load_checkpoint(Path(tiny.checkpoints[0])).dictionary.identity
    assert own != load_checkpoint(Path(tiny.checkpoints[1])).dictionary.identity
    job = tiny.job((0, 3, "add", 1.0))

    def indexed_as(identity):
        changed = [one.model_copy(update={"identity": identity}) for one in job.interventions]
        return job.model_copy(update={"interventions": changed})

    assert ask(indexed_as(own))[-1].event == "done"
    with pytest.raises(WorkerRefused, match="not the dictionary that was indexed"):
        ask(indexed_as("000000000000"))
