"""The steering page against a stream whose every event is known: what arrives is what is read."""

import json
from importlib.util import find_spec

import pytest

from lexiscope.records import (
    ErrorRecord,
    FeatureRef,
    Generated,
    NamedEffect,
    SteerDone,
    SteerEffect,
    SteerError,
    SteerResolved,
    SteerStep,
    Token,
)

pytestmark = pytest.mark.skipif(find_spec("server.steer") is None, reason="this server has no /steer")

NAME = Token(id=0, shown="␣Paris", raw="205061726973")
FEATURE = FeatureRef(
    id="tiny/1-vasae/0",
    model="tiny",
    source="1-vasae",
    layer=1,
    index=0,
    name=NAME,
    cosine=0.9,
    verdict="reads",
    density=0.01,
)
EFFECT = NamedEffect(
    feature=FEATURE,
    mode="add",
    strength=0.5,
    probability_default=0.0004,
    probability_steered=0.31,
    rank_default=1923,
    rank_steered=0,
)


def stream(*events):
    return "".join(f"data: {event.model_dump_json()}\n\n" for event in events)


def answer(page, **kwargs):
    """Answer the page's next steer; returns the list its request bodies are put in."""
    sent = []

    def fulfil(route):
        sent.append(json.loads(route.request.post_data))
        route.fulfill(**kwargs)

    page.route("**/api/v1/steer", fulfil)
    return sent


def step(default, steered):
    row = lambda text: Generated(token=NAME, text=text, logprob=-0.5)
    return SteerStep(default=row(default), steered=row(steered))


def test_default_and_steered_text_arrive_side_by_side_with_their_effect(page):
    body = stream(
        SteerResolved(features=[FEATURE], prompt_tokens=[NAME]),
        step(" a river", " Paris"),
        SteerEffect(kl_first=2.25, effects=[EFFECT]),
        step(" é", " 😀<b>"),
        SteerDone(default_text=" a river é", steered_text=" Paris 😀<b>", tokens_per_second=31),
    )
    sent = answer(page, status=200, content_type="text/event-stream", body=body)
    page.goto("/steer?model=tiny&feature=tiny/1-vasae/0")
    page.get_by_label("Prompt").fill("I went to")
    page.get_by_role("button", name="Steer", exact=True).click()
    page.get_by_text("Done, 31.0 tokens a second.").wait_for()
    assert page.locator("#default-text").inner_text() == "I went to a river é"
    assert page.locator("#steered-text").inner_text() == "I went to Paris 😀<b>"
    row = page.locator("#effect tbody tr").inner_text().split()
    assert {"␣Paris", "+0.50×", "0.0400", "31.0", "1,923", "0"} <= set(row)
    assert "2.250 nats" in page.locator("#effect").inner_text()
    assert sent[0]["features"] == [{"id": "tiny/1-vasae/0", "mode": "add", "strength": 0.5}]


def test_a_token_is_sent_with_its_space_and_layer(page):
    sent = answer(
        page,
        status=200,
        content_type="text/event-stream",
        body=stream(SteerError(status=404, error="no such name")),
    )
    page.goto("/steer?model=tiny")
    page.get_by_label("Feature id, or a token").fill("␣Paris")
    page.get_by_label("at layer").select_option("2")
    page.locator("select.mode").select_option("ablate")
    page.get_by_role("button", name="Steer", exact=True).click()
    page.get_by_role("alert").get_by_text("no such name").wait_for()
    assert sent[0]["features"] == [{"token": " Paris", "layer": 2, "mode": "ablate", "strength": 0.5}]


def test_a_refusal_is_read_out_in_words(page):
    refusal = ErrorRecord(
        status=429,
        error="The model is busy: 8 requests wait.",
        kept="Your prompt is still here.",
    )
    answer(
        page,
        status=429,
        content_type="application/json",
        body=refusal.model_dump_json(),
    )
    page.goto("/steer?model=tiny&feature=tiny/1-vasae/0")
    page.get_by_role("button", name="Steer", exact=True).click()
    alert = page.get_by_role("alert")
    alert.get_by_text("The model is busy: 8 requests wait. Your prompt is still here.").wait_for()
    assert page.locator("#stop").is_disabled()


def test_stop_aborts_the_request(page):
    page.route("**/api/v1/steer", lambda route: None)  # never answered
    page.goto("/steer?model=tiny&feature=tiny/1-vasae/0")
    page.get_by_role("button", name="Steer", exact=True).click()
    with page.expect_event("requestfailed") as failed:
        page.get_by_role("button", name="Stop").click()
    assert failed.value.url.endswith("/api/v1/steer")
    page.get_by_role("status").get_by_text("Stopped.").wait_for()


def test_interventions_can_be_added_and_discarded(page):
    page.goto("/steer?model=tiny&feature=tiny/1-vasae/0")
    assert page.get_by_role("button", name="Discard").is_disabled()
    page.get_by_role("button", name="Add another").click()
    assert page.locator(".intervention").count() == 2
    page.get_by_role("button", name="Discard").first.click()
    assert page.locator(".intervention").count() == 1


def test_a_strength_beyond_one_is_called_off_manifold(page):
    page.goto("/steer?model=tiny&feature=tiny/1-vasae/0")
    page.locator(".slider").fill("1.5")
    assert "off-manifold" in page.locator("output.strength").inner_text()
