"""The reading page over the tiny live model: the table of names, the features of one token, two texts."""

import contextlib

import pytest

from tests.browser.conftest import held
from tests.live.conftest import client, tiny  # noqa: F401 (fixtures)
from tests.server_thread import running

TEXT = "Once upon a time"


@pytest.fixture
def reading(client, chromium):  # noqa: F811
    """A page in a browser on a server whose index leads to a model that can be run."""
    with running(client.app, lifespan="off") as address:
        context = chromium.new_context(base_url=address)
        context.set_default_timeout(60_000)
        yield context
        context.close()


def test_a_text_is_read_and_a_token_lists_its_features(reading):
    page = reading.new_page()
    page.goto("/read?model=tiny")
    page.locator("textarea[name=text]").fill(TEXT)
    page.get_by_role("button", name="Read", exact=True).click()
    page.get_by_role("heading", name="Layers × tokens").wait_for()
    assert (
        page.locator(".grid thead th").count() == 1 + len(TEXT)
        and page.locator(".grid tbody tr").count() == 2
    )
    links = page.locator(".grid tbody a.cell")
    assert links.count() > len(TEXT) and links.first.get_attribute("href").startswith("/tiny/0-random/")
    assert page.locator(".grid .error").count() == 2 * len(TEXT)
    marks = page.locator(".grid tbody .mark").count()
    assert marks == links.count(), "every cell has its verdict"
    legend = page.locator("#table ~ .legend").inner_text()
    assert all(verdict in legend for verdict in ("specific", "partial", "weak", "none", "untested"))
    assert page.title().startswith(f"“{TEXT}”") and "text=Once" in page.url
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280, (
        "the table scrolls, the page does not"
    )
    with page.expect_response(lambda response: "token=2" in response.url):
        page.locator(".grid thead a").nth(2).click()
    page.get_by_role("heading", name="Features that fire on").wait_for()
    assert "token=2" in page.url and page.locator("#token li").count() > 4
    page.go_back()
    page.get_by_text("Select a token in the first row").wait_for()


def test_a_fragment_is_no_new_reading_and_the_last_token_that_was_chosen_is_shown(reading):
    page = reading.new_page()
    page.goto(f"/read?model=tiny&text={TEXT}")
    page.evaluate("window.sameDocument = true")
    page.get_by_text("Skip to the content").focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**#main")
    page.go_back()
    page.wait_for_url(f"**/read?model=tiny&text={TEXT.replace(' ', '%20')}")
    first = held(page, "**/read?*token=1*")
    page.locator(".grid thead a").nth(1).click()
    page.locator(".grid thead a").nth(2).click()
    page.locator("#token-h").get_by_text("position 2").wait_for()
    for route in first:
        with contextlib.suppress(Exception):  # it was given up already
            route.continue_()
    page.wait_for_timeout(300)
    assert page.locator("#token-h").inner_text().endswith("position 2") and "token=2" in page.url
    assert page.evaluate("window.sameDocument"), "nothing was loaded again"


def test_a_text_of_several_lines_is_read_as_it_was_typed(reading):
    page = reading.new_page()
    page.goto("/read?model=tiny")
    page.locator("textarea[name=text]").fill("\na\nb")
    page.get_by_role("button", name="Read", exact=True).click()
    page.get_by_role("heading", name="Layers × tokens").wait_for()
    assert page.locator(".grid thead th a").all_inner_texts() == ["↵", "a", "↵", "b"]
    assert page.locator("textarea[name=text]").input_value() == "\na\nb"


def test_the_page_works_without_scripts(reading, chromium):
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.set_default_timeout(60_000)
    page.goto(reading._impl_obj._options["baseURL"] + f"/read?model=tiny&text={TEXT}&contrast=Bees")
    page.locator(".grid thead a").nth(1).click()
    page.get_by_role("heading", name="Features that fire on").wait_for()
    assert page.get_by_role("heading", name="Contrast of the two texts").is_visible()
    context.close()


def test_a_text_of_ones_own_is_tested_on_the_feature_page(reading):
    page = reading.new_page()
    page.goto("/tiny/0-random/3")
    page.get_by_placeholder("Does it fire on your own text?").fill(TEXT)
    page.get_by_role("button", name="Test").click()
    page.locator("#own-result span").first.wait_for()
    assert page.locator("#own-result span").count() == len(TEXT)
    fired = page.locator("#own-result span.heat").count()
    assert fired > 0 and f"Fires on {fired} of {len(TEXT)} tokens" in page.locator("#own-words").inner_text()
    assert "/tiny/0-random/3" in page.url


def test_a_feature_that_fires_negatively_on_ones_own_text_is_not_silent(page):
    tokens = [{"id": one, "shown": shown} for one, shown in enumerate("abc")]
    answer = {"texts": [{"tokens": tokens}], "followed": {"values": [[-2.5, 0, 1]]}}
    page.route("**/api/v1/read", lambda route: route.fulfill(json=answer))
    page.goto("/tiny/1-vasae/6")
    page.get_by_placeholder("Does it fire on your own text?").fill("abc")
    page.get_by_role("button", name="Test").click()
    page.locator("#own-result span").first.wait_for()
    assert "Fires on 2 of 3 tokens, at most −2.500" in page.locator("#own-words").inner_text()
    assert page.locator("#own-result span.below").inner_text() == "a"


def test_the_parts_of_a_character_are_one_on_ones_own_text(page):
    raws = ["f09f", "9880", "20e2", "80", "8b61", "f09f91a9", "e2808d", "f09f94ac", "ff"]
    tokens = [{"id": one, "shown": f"⟨{raw}⟩", "raw": raw} for one, raw in enumerate(raws)]
    values = [[0, 2, 0, 0, 0, 0, 0, -1, 0]]
    answer = {"texts": [{"tokens": tokens}], "followed": {"values": values}}
    page.route("**/api/v1/read", lambda route: route.fulfill(json=answer))
    page.goto("/tiny/1-vasae/6")
    page.get_by_placeholder("Does it fire on your own text?").fill("abc")
    page.get_by_role("button", name="Test").click()
    page.locator("#own-result span").first.wait_for()
    spans = page.locator("#own-result span")
    assert spans.evaluate_all("all => all.map((one) => one.textContent)") == [
        *("😀", " \u200ba", "👩\u200d🔬", "⟨ff⟩")
    ]
    heated = spans.evaluate_all("all => all.map((one) => one.classList.contains('heat'))")
    assert heated == [True, False, True, False]
    assert page.locator("#own-result").get_attribute("dir") == "auto"


def test_without_scripts_the_text_is_read_on_the_reading_page(reading, chromium):
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.set_default_timeout(60_000)
    page.goto(reading._impl_obj._options["baseURL"] + "/tiny/0-random/3")
    page.get_by_placeholder("Does it fire on your own text?").fill(TEXT)
    page.get_by_role("button", name="Test").click()
    page.locator(".followed").wait_for()
    assert page.locator(".followed span").count() == len(TEXT)
    assert page.locator(".followed .heat").count() > 0
    context.close()


def test_eight_examples_are_one_click_each_and_a_contrast_fits_a_screen(reading):
    page = reading.new_page()
    page.set_viewport_size({"width": 1280, "height": 800})
    page.goto("/read?model=tiny")
    assert page.locator(".examples a").count() == 8
    page.locator(".examples a").last.click()
    page.get_by_role("heading", name="Contrast of the two texts").wait_for()
    assert "contrast=" in page.url and "against “" in page.title()
    table = page.locator("table.contrast")
    assert table.locator("tbody tr").count() == 2
    assert table.bounding_box()["height"] < 800
    assert table.locator("thead q").first.evaluate("q => getComputedStyle(q).unicodeBidi") == "isolate"


def test_a_feature_to_follow_that_does_not_exist_leaves_the_form_as_it_was(reading):
    page = reading.new_page()
    answer = page.goto(f"/read?model=tiny&text={TEXT}&feature=tiny/0-random/99999")
    assert answer.status == 404
    assert "has no feature 99999" in page.get_by_role("alert").inner_text()
    assert page.locator("textarea[name=text]").input_value() == TEXT
    assert page.locator("[name=feature]").input_value() == "tiny/0-random/99999"


def test_a_model_that_does_not_exist_is_said_and_no_other_taken(reading):
    page = reading.new_page()
    for address in ("/steer?model=nope", "/read?model=nope"):
        assert page.goto(address).status == 404
        assert "no model 'nope'; its models are: tiny" in page.get_by_role("alert").first.inner_text()
