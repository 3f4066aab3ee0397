"""The form of the steering page: what is sent is what stands in it, and the address is of what was sent."""

import json
from urllib.parse import parse_qs, urlsplit

from lexiscope.records.live import SteerDone, SteerResolved, SweepCurve, SweepResponse
from tests.browser.conftest import held
from tests.browser.test_steering import FEATURE, NAME, answer, step, stream, swept_at

ADDRESS = "/steer?model=tiny&feature=tiny/1-vasae/0"
DONE = SteerDone(default_text=" a", steered_text=" b", tokens_per_second=31)
EVENTS = stream(SteerResolved(features=[FEATURE], prompt_tokens=[NAME]), step(" a", " b"), DONE)


def test_a_finished_steer_is_remembered_as_it_was_sent(page):
    waiting = held(page, "**/api/v1/steer")
    page.goto(ADDRESS)
    page.get_by_role("textbox", name="Prompt").fill("I went to")
    with page.expect_request("**/api/v1/steer"):
        page.get_by_role("button", name="Steer", exact=True).click()
    page.get_by_role("textbox", name="Prompt").fill("something else")
    page.get_by_label("Seed").fill("")
    waiting[0].fulfill(status=200, content_type="text/event-stream", body=EVENTS)
    page.wait_for_url("**#result=*")
    assert json.loads(parse_qs(urlsplit(page.url).query)["state"][0])["prompt"] == "I went to"
    assert page.get_by_role("textbox", name="Prompt").input_value() == "something else"


def test_a_finished_dose_response_is_remembered_as_it_was_sent(page):
    waiting = held(page, "**/api/v1/steer/sweep")
    page.goto(ADDRESS)
    page.get_by_role("textbox", name="Prompt").fill("I went to")
    with page.expect_request("**/api/v1/steer/sweep") as sent:
        page.get_by_role("button", name="Dose-response").click()
    page.get_by_role("textbox", name="Prompt").fill("something else")
    curve = SweepCurve(
        unit="norm",
        default=swept_at(0.0, 0.01),
        points=[swept_at(0.5, 0.1)],
        sweet_spot=0.5,
        rule="The rule.",
    )
    swept = SweepResponse(resolved=SteerResolved(features=[FEATURE], prompt_tokens=[NAME]), swept=curve)
    waiting[0].fulfill(status=200, content_type="application/json", body=swept.model_dump_json())
    page.wait_for_url("**#result=*")
    state = json.loads(parse_qs(urlsplit(page.url).query)["state"][0])
    assert state["prompt"] == "I went to" and state["features"][0]["strength"] == 0.5
    assert "strength" not in json.loads(sent.value.post_data)["features"][0]


def test_a_number_of_any_precision_is_taken_and_a_cleared_one_is_not_0(page):
    sent = answer(page, status=200, content_type="text/event-stream", body=EVENTS)
    page.goto(ADDRESS)
    steer = page.get_by_role("button", name="Steer", exact=True)
    page.get_by_label("Temperature").fill("0.35")
    steer.click()
    page.get_by_text("Done, 31.0 tokens a second.").wait_for()
    assert sent[0]["temperature"] == 0.35
    for name in ("temperature", "seed", "max_tokens", "top_p", "top_k", "frequency_penalty"):
        field = page.locator(f"#steer [name={name}]")
        before = field.evaluate("(field) => field.value")
        field.evaluate("(field) => (field.value = '')")
        steer.click()
        page.wait_for_function("(name) => document.activeElement.name === name", arg=name)
        assert field.is_visible(), "a part of the form that is closed is opened"
        field.evaluate("(field, before) => (field.value = before)", before)
    assert len(sent) == 1


def test_an_answer_that_cannot_be_shown_is_not_said_to_be_missing(page):
    body = 'data: {"event": "effect"}\n\n'
    answer(page, status=200, content_type="text/event-stream", body=body)
    page.goto(ADDRESS)
    page.get_by_role("button", name="Steer", exact=True).click()
    page.get_by_role("alert").get_by_text("The response cannot be shown to its end").wait_for()
    page.unroute("**/api/v1/steer")
    page.route("**/api/v1/steer", lambda route: route.abort())
    page.get_by_role("button", name="Steer", exact=True).click()
    page.get_by_role("alert").get_by_text("The server cannot be reached").wait_for()
