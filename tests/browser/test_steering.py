"""The steering page shows the events of a stream."""

import base64
import json
import zlib
from importlib.util import find_spec

import httpx
import pytest

from lexiscope.records import ErrorRecord, FeatureRef, ScoredToken, Token
from lexiscope.records.live import (
    ActivationChange,
    Control,
    ControlEffect,
    FirstTokenEffect,
    GeneratedToken,
    ResolvedFeature,
    RunEffect,
    SteerDone,
    SteerEffect,
    SteerError,
    SteerMeasured,
    SteerResolved,
    SteerStep,
    SweepControl,
    SweepCurve,
    SweepEffect,
    SweepPoint,
    SweepResponse,
)
from lexiscope.settings import Settings
from server import create_app
from tests.server_thread import running
from tests.store import synthetic

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
    verdict="partial",
    density=0.01,
)
EFFECT = FirstTokenEffect(
    token=NAME,
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
    row = lambda text: GeneratedToken(token=NAME, text=text, logprob=-0.5)
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
    page.get_by_role("textbox", name="Prompt").fill("I went to")
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
        body=stream(SteerError(status=404, detail="no such name")),
    )
    page.goto("/steer?model=tiny")
    page.get_by_label("Feature id, or a token").fill("␣Paris")
    page.get_by_label("at layer").select_option("2")
    page.locator("select.mode").select_option("ablate")
    page.get_by_role("button", name="Steer", exact=True).click()
    page.get_by_role("alert").get_by_text("no such name").wait_for()
    assert sent[0]["features"] == [{"token": " Paris", "layer": 2, "mode": "ablate"}]


def test_a_rejected_request_shows_its_error(page):
    refusal = ErrorRecord(
        status=429,
        detail="The model is busy: 8 requests wait.",
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


def test_interventions_can_be_added_and_removed(page):
    page.goto("/steer?model=tiny&feature=tiny/1-vasae/0")
    assert page.get_by_role("button", name="Remove").is_disabled()
    page.get_by_role("button", name="Add another").click()
    assert page.locator(".intervention").count() == 2
    page.get_by_role("button", name="Remove").first.click()
    assert page.locator(".intervention").count() == 1


def test_a_strength_beyond_one_is_called_off_manifold(page):
    page.goto("/steer?model=tiny&feature=tiny/1-vasae/0")
    page.locator(".slider").fill("1.5")
    assert "off-manifold" in page.locator("output.strength").inner_text()


def measured(*, beats):
    return SteerMeasured(
        kl=[0.5, 2.0],
        kl_mean=1.25,
        kl_default_text=0.9,
        perplexity_default=12.5,
        perplexity_steered=33.25,
        named=[
            RunEffect(
                token=NAME,
                feature=FEATURE,
                probability_default=0.001,
                probability_steered=0.21,
                rank_default=900,
                rank_steered=3,
                beats_controls=beats,
            )
        ],
        controls=[
            Control(
                kind=kind,
                features=[] if kind == "embedding" else [FEATURE],
                kl=0.7,
                named=[
                    ControlEffect(feature=FEATURE, token=NAME, probability_first=0.1, probability=p, rank=7)
                ],
            )
            for kind, p in (("embedding", 0.19), ("random", 0.002))
        ],
        controls_missing=["plain: none here"],
        moved_source="2-vasae",
        rose=[ActivationChange(**FEATURE.model_dump(), default=0.25, steered=3.5)],
    )


@pytest.mark.parametrize(("beats", "says"), [(True, "Effect"), (False, "No effect")])
def test_the_run_is_called_an_effect_only_if_it_beats_its_controls(page, beats, says):
    others = [FEATURE.model_copy(update={"id": "tiny/1-vasae/7", "index": 7})]
    body = stream(
        SteerResolved(
            features=[FEATURE],
            meant=[ResolvedFeature(feature=FEATURE, by="write list", token=NAME, others=others)],
            prompt_tokens=[NAME],
        ),
        step(" a", " Paris"),
        SteerEffect(kl_first=0.5, effects=[EFFECT]),
        step(" b", " c"),
        measured(beats=beats),
        SteerDone(default_text=" a b", steered_text=" Paris c", steered_end="stop", tokens_per_second=31),
    )
    sent = answer(page, status=200, content_type="text/event-stream", body=body)
    page.goto("/steer?model=tiny&feature=tiny/1-vasae/0")
    page.get_by_role("button", name="Steer", exact=True).click()
    page.get_by_text("The steered text ended before a stop text.").wait_for()
    assert sent[0]["controls"] is True
    assert page.locator("#beats .badge").inner_text() == says
    assert (
        "2 controls" in page.locator("#beats").inner_text()
        and "1 of 3 cases (33 %)" in page.locator("#beats").inner_text()
    )
    above = "document.getElementById('beats').compareDocumentPosition(document.getElementById('outcome'))"
    assert page.evaluate(above) == 4, "the verdict stands before the texts"
    rows = [row.inner_text() for row in page.locator("#controls tbody tr").all()]
    assert "0.100 %" in rows[0] and "21.0 %" in rows[1] and "raw embedding" in rows[2] and "19.0 %" in rows[2]
    assert "plain: none here" in page.locator("#run-words").inner_text()
    assert "0.25 → 3.50 anchor ␣Paris" in " ".join(page.locator("#rose").inner_text().split())
    assert "1-vasae · 7" in page.locator("#meant").inner_text()
    heat = page.locator("#steered-text span:not(.prompt)")
    assert [span.get_attribute("class") for span in heat.all()] == ["heat h5", "heat h20"]


def test_alternatives_of_a_token_are_on_hover(page):
    drawn = GeneratedToken(
        token=NAME, text=" Paris", logprob=-0.5, top=[ScoredToken(id=9, shown="␣London", score=-0.25)]
    )
    body = stream(
        SteerResolved(features=[FEATURE], prompt_tokens=[NAME]),
        SteerStep(default=drawn, steered=drawn),
        SteerError(status=503, detail="gone"),
    )
    answer(page, status=200, content_type="text/event-stream", body=body)
    page.goto("/steer?model=tiny&feature=tiny/1-vasae/0")
    page.get_by_role("button", name="Steer", exact=True).click()
    page.get_by_role("alert").get_by_text("gone").wait_for()
    assert "␣London 0.78" in page.locator("#default-text span:not(.prompt)").get_attribute("title")
    assert page.locator("#default-text").inner_text().endswith("Paris"), "what was written is kept"


def test_every_field_of_an_intervention_and_of_sampling_is_sent(page):
    sent = answer(
        page,
        status=200,
        content_type="text/event-stream",
        body=stream(SteerError(status=404, detail="no such name")),
    )
    page.goto("/steer?model=tiny&feature=tiny/1-vasae/0")
    page.locator("select.mode").select_option("swap")
    page.get_by_label("the feature that gets the activation").fill("tiny/1-vasae/4")
    page.get_by_text("Positions and condition").click()
    page.locator("select.part").select_option("prompt")
    page.get_by_label("or only at positions").fill("0, 3")
    page.get_by_label("only where this feature fires").fill("tiny/0-vasae/2")
    page.get_by_text("Sampling", exact=True).click()
    page.get_by_label("Top p").fill("0.9")
    page.get_by_label("Frequency penalty").fill("0.5")
    page.get_by_label("Stop before").fill("↵")
    page.get_by_role("button", name="Steer", exact=True).click()
    page.get_by_role("alert").get_by_text("no such name").wait_for()
    [feature] = sent[0].pop("features")
    assert feature == {
        "id": "tiny/1-vasae/0",
        "mode": "swap",
        "strength": 1,
        "to": {"id": "tiny/1-vasae/4"},
        "where": "prompt",
        "positions": [0, 3],
        "when": {"id": "tiny/0-vasae/2"},
    }
    assert sent[0]["top_p"] == 0.9 and sent[0]["frequency_penalty"] == 0.5 and sent[0]["stop"] == ["\n"]


def swept_at(strength, p, controls=(), beats=None):
    named = [SweepEffect(feature=FEATURE, token=NAME, probability_first=p, probability=p, rank_first=1)]
    return SweepPoint(
        strength=strength,
        named=named,
        kl_first=p,
        kl=2 * p,
        perplexity=10 + 100 * p,
        distinct=0.9,
        text=f"text at {strength}",
        controls=[SweepControl(kind="random", probabilities=[one]) for one in controls],
        beats_controls=beats,
    )


def answer_sweep(page, points, sweet_spot):
    """Answer the page's next sweep; returns the list its request bodies are put in."""
    curve = SweepCurve(
        unit="norm", default=swept_at(0.0, 0.01), points=points, sweet_spot=sweet_spot, rule="The rule."
    )
    resolved = SteerResolved(features=[FEATURE], prompt_tokens=[NAME])
    body = SweepResponse(resolved=resolved, swept=curve).model_dump_json()
    sent = []

    def fulfil(route):
        sent.append(json.loads(route.request.post_data))
        route.fulfill(status=200, content_type="application/json", body=body)

    page.route("**/api/v1/steer/sweep", fulfil)
    page.goto("/steer?model=tiny&feature=tiny/1-vasae/0")
    page.get_by_role("button", name="Dose-response").click()
    page.locator("#swept").wait_for()
    return sent


def test_a_dose_response_is_drawn_and_its_sweet_spot_marked(page):
    answer_sweep(page, [swept_at(0.5, 0.1), swept_at(1.5, 0.4)], 0.5)
    assert "Sweet spot: 0.5×" in page.locator("#sweet").inner_text()
    assert page.locator("#sweet a").get_attribute("href") == "/tiny/1-vasae/0"
    assert page.locator("#curves svg").count() == 3 and page.locator("#curves circle").count() == 9
    assert "40.0 %" in page.locator("#curves figure").first.inner_text(), "the unit of the table"
    assert page.locator("#curves .off").count() == 3, "off-manifold beyond 1× is shaded in each drawing"
    assert "text at 0.5" in page.locator("#doses .own").inner_text()
    assert page.locator("#beats .badge").inner_text() == "Not judged"


def test_a_dose_response_shows_its_controls_and_no_sweet_spot_without_an_effect(page):
    points = [swept_at(0.5, 0.1, [0.2, 0.05], False), swept_at(1.5, 0.4, [0.5, 0.1], False)]
    sent = answer_sweep(page, points, None)
    assert sent[0]["controls"] is True
    assert page.locator("#beats .badge").inner_text() == "No effect"
    assert "1 of 3 cases" in page.locator("#beats").inner_text()
    assert page.locator("#curves .control").count() == 2 and page.locator("#curves .sweet").count() == 0
    assert "No sweet spot" in page.locator("#sweet").inner_text()
    assert "20.0 %" in page.locator("#doses tbody").inner_text(), "the highest control at 0.5"


def test_a_strength_that_beats_its_controls_is_named(page):
    points = [swept_at(0.5, 0.3, [0.2, 0.05], True), swept_at(1.5, 0.4, [0.5, 0.1], False)]
    answer_sweep(page, points, 0.5)
    assert page.locator("#beats .badge").inner_text() == "Effect"
    assert "At 0.5× every name" in page.locator("#beats").inner_text()


def test_what_cannot_be_swept_has_no_button_for_it(page):
    page.goto("/steer?model=tiny&feature=tiny/1-vasae/0&feature=tiny/1-vasae/4")
    button = page.get_by_role("button", name="Dose-response")
    assert button.is_visible()
    page.locator("select.mode").first.select_option("clamp")
    assert not button.is_visible(), "two modes"
    page.locator("select.mode").nth(1).select_option("clamp")
    assert button.is_visible()
    for place in (0, 1):
        page.locator("select.mode").nth(place).select_option("ablate")
    assert not button.is_visible(), "without a strength"


def test_a_swap_takes_tokens_by_their_text(page):
    body = stream(SteerError(status=404, detail="no such name"))
    sent = answer(page, status=200, content_type="text/event-stream", body=body)
    page.goto("/steer?model=tiny")
    page.get_by_label("Feature id, or a token").fill("␣Paris")
    page.locator("select.mode").select_option("swap")
    page.get_by_label("the feature that gets the activation").fill("␣London")
    page.get_by_label("at layer").select_option("1")
    page.get_by_role("button", name="Steer", exact=True).click()
    page.get_by_role("alert").get_by_text("no such name").wait_for()
    [feature] = sent[0]["features"]
    assert feature["token"] == " Paris" and feature["to"] == {"token": " London", "layer": 1}


def test_the_whole_form_is_in_the_address(page, context):
    page.goto("/steer?model=tiny&feature=tiny/1-vasae/0&token=␣Paris&layer=2")
    page.get_by_role("textbox", name="Prompt").fill("I went to & 'é'")
    page.locator("select.mode").first.select_option("clamp")
    page.locator(".slider").first.fill("2.5")
    page.get_by_label("Temperature").fill("0.3")
    page.get_by_label("Seed").fill("7")
    page.get_by_text("Sampling", exact=True).click()
    page.get_by_label("Stop before").fill("↵")
    page.get_by_label("with controls").uncheck()
    page.wait_for_url("**/steer?state=*%22controls%22%3Afalse*")
    again = context.new_page()
    again.goto(page.url)
    assert again.get_by_role("textbox", name="Prompt").input_value() == "I went to & 'é'"
    targets = [field.input_value() for field in again.locator(".target").all()]
    assert targets == ["tiny/1-vasae/0", "␣Paris"]
    assert again.locator("select.mode").first.input_value() == "clamp"
    assert again.locator(".slider").first.input_value() == "2.5"
    assert again.locator("select.layer").nth(1).input_value() == "2"
    assert again.get_by_label("Temperature").input_value() == "0.3"
    assert again.get_by_label("Seed").input_value() == "7"
    assert again.locator("[name=stop_text]").input_value() == "↵"
    assert not again.get_by_label("with controls").is_checked()


def test_the_link_of_a_finished_steer_shows_what_was_generated(page, chromium, site):
    body = stream(
        SteerResolved(features=[FEATURE], prompt_tokens=[NAME]),
        step(" a river", " Paris"),
        SteerEffect(kl_first=2.25, effects=[EFFECT]),
        step(" é", " 😀<b>"),
        measured(beats=True),
        SteerDone(default_text=" a river é", steered_text=" Paris 😀<b>", tokens_per_second=31),
    )
    answer(page, status=200, content_type="text/event-stream", body=body)
    page.goto("/steer?model=tiny&feature=tiny/1-vasae/0")
    page.get_by_role("textbox", name="Prompt").fill("I went to")
    page.get_by_role("button", name="Steer", exact=True).click()
    page.wait_for_url("**#result=*")
    visitor = chromium.new_context(base_url=site)
    there, asked = visitor.new_page(), []
    there.on("request", lambda request: asked.append(request.url))
    there.goto(page.url)
    there.get_by_text("was not run here").wait_for()
    assert there.locator("#default-text").inner_text() == "I went to a river é"
    assert there.locator("#steered-text").inner_text() == "I went to Paris 😀<b>"
    assert there.locator("#beats .badge").inner_text() == "Effect"
    assert not any("/api/v1/steer" in url for url in asked), "nothing was run"
    damaged = visitor.new_page()
    damaged.goto(page.url.split("#")[0] + "#result=AAAA")
    damaged.get_by_role("alert").get_by_text("cannot be read").wait_for()
    elsewhere = FEATURE.model_copy(update={"id": r"\evil.example/0-x/1"})
    event = SteerResolved(features=[elsewhere], prompt_tokens=[]).model_dump_json()
    packed = zlib.compress(f"[{event}]".encode(), wbits=-15)
    damaged.goto("/steer#result=" + base64.urlsafe_b64encode(packed).decode().rstrip("="))
    damaged.get_by_role("alert").get_by_text("cannot be read").wait_for()
    visitor.close()


def test_dictionaries_of_every_k_have_a_slider_for_it_on_both_pages(chromium, tmp_path):
    usual = synthetic.Dictionary("tiny", 1)
    synthetic.publish(tmp_path, [synthetic.Dictionary("tiny", 0, "hierarchical"), usual])
    with running(create_app(Settings(index=tmp_path))) as address:
        most = httpx.get(f"{address}/api/v1/models/tiny").json()["layers"][0]["k"]
        page = chromium.new_context(base_url=address).new_page()
        page.set_default_timeout(60_000)
        page.goto("/read")
        page.get_by_text("More options").click()
        for open_page in ("/read", "/steer?feature=tiny/0-hierarchical/6"):
            if open_page != "/read":
                page.goto(open_page)
            slider = page.locator("[name=k]")
            assert slider.get_attribute("max") == str(most) and slider.get_attribute("type") == "range"
            output = page.locator("[name=k] + output")
            assert output.inner_text() == "as trained"
            slider.press("ArrowRight")
            slider.press("ArrowRight")
            assert output.inner_text() == "2"
        page.wait_for_url("**%22k%22%3A2**")
        page.reload()
        assert page.locator("[name=k]").input_value() == "2"
        page.context.close()
