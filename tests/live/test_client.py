"""The Python client with a live model: a steer, its events, a sweep, a reading."""

from contextlib import asynccontextmanager

import httpx
import pytest

from lexiscope.client import AsyncLexiscope, InvalidRequest, Lexiscope
from lexiscope.records import FeatureRef
from lexiscope.records.live import SteerDone
from server.live import WorkerClient
from tests.in_process import InProcess
from tests.live.jobs import finish

ID, GIVEN = "tiny/0-random/3", {"max_tokens": 4, "temperature": 0}


@pytest.fixture
def lexiscope(client):
    with Lexiscope("http://test", transport=InProcess(client.app)) as server:
        yield server


def test_a_steer_and_its_events_have_the_same_texts(lexiscope):
    whole = lexiscope.steer("Once", [ID], **GIVEN)
    events = list(lexiscope.steer_events("Once", [lexiscope.feature(ID)], **GIVEN))
    assert [event.event for event in events] == [
        *("resolved", "step", "effect"),
        *["step"] * 3,
        *("measured", "done"),
    ]
    assert isinstance(events[0].features[0], FeatureRef) and events[0].features[0].id == ID
    assert events[-1].steered_text == whole.done.steered_text
    with pytest.raises(InvalidRequest, match="positions 0 to"):
        list(lexiscope.steer_events("Once", [{"id": ID, "positions": [999]}], **GIVEN))


def test_a_generated_line_separator_ends_no_event(client, lexiscope, monkeypatch):
    done = SteerDone(default_text="a\u2028b", steered_text="a\u2029b\x85c", tokens_per_second=1)

    @asynccontextmanager
    async def submit(worker, job, *, client=""):
        async def events():
            yield done

        yield events()

    async def asynchronous():
        async with AsyncLexiscope("http://test", transport=httpx.ASGITransport(client.app)) as server:
            return [event async for event in server.steer_events("Once", [ID], **GIVEN)]

    monkeypatch.setattr(WorkerClient, "submit", submit)
    assert list(lexiscope.steer_events("Once", [ID], **GIVEN)) == finish(asynchronous()) == [done]


def test_a_sweep_and_a_reading_are_records(lexiscope):
    points = lexiscope.sweep("Once", [ID], strengths=[0.5, 1], **GIVEN).swept.points
    assert [point.strength for point in points] == [0.5, 1]
    read = lexiscope.read("Once", model="tiny", positions=[0])
    assert [bool(token.fired) for token in read.texts[0].layers[0].tokens] == [True, False, False, False]
    assert lexiscope.worker().served > 0


def test_the_asynchronous_client_streams_events(client):
    async def events():
        async with AsyncLexiscope("http://test", transport=httpx.ASGITransport(client.app)) as server:
            return [event.event async for event in server.steer_events("Once", [ID], **GIVEN)]

    assert finish(events())[-1] == "done"
