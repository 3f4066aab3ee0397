"""Tokens are suggested while one is typed: in the header, and in the fields of the steering page."""

import re

import pytest

OPTIONS = "ul.complete:not([hidden]) li"


def typed(page, text, field="#q"):
    page.locator(field).first.click()
    page.keyboard.type(text)
    options = f'ul.complete[data-of="{text}"]:not([hidden]) li'
    page.wait_for_selector(options)
    return page.locator(f"{options} .chip").all_inner_texts()


def test_typing_a_word_offers_its_spellings_without_marks(page):
    page.goto("/tiny/1-vasae/0")
    options = typed(page, "paris")
    assert {"␣Paris", "Paris", "␣paris"} <= set(options)
    assert page.locator("#q").get_attribute("aria-expanded") == "true"
    counts = page.locator("ul.complete:not([hidden]) li > span:last-child").all_inner_texts()
    assert all(re.search(r"(feature|nothing is named after it).* · [\d,]+×", text) for text in counts)
    best = page.locator("ul.complete:not([hidden]) .best").all_inner_texts()
    assert any(re.search(r"(on|after|before|near) \d", text) for text in best)


def test_arrows_and_enter_open_the_tokens_page_and_escape_closes(page):
    page.goto("/tiny/1-vasae/0")
    options = typed(page, "paris")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    active = page.locator("#q").get_attribute("aria-activedescendant")
    assert page.locator(f"#{active}").get_attribute("aria-selected") == "true"
    page.keyboard.press("Escape")
    assert page.locator("ul.complete:not([hidden])").count() == 0
    assert page.locator("#q").input_value() == "paris", "what was typed stays"
    page.keyboard.press("ArrowDown")  # asks again
    page.wait_for_selector("ul.complete:not([hidden]) li")
    page.keyboard.press("ArrowUp")  # the last one
    page.keyboard.press("Enter")
    page.wait_for_url("**/tokens/**")
    assert page.locator("h1").inner_text() == options[-1]


def test_enter_without_a_choice_searches(page):
    page.goto("/tiny/1-vasae/0")
    typed(page, "paris")
    page.keyboard.press("Enter")
    page.wait_for_url("**/search?q=paris")


def test_a_field_of_the_steering_page_takes_the_spelling(page):
    page.goto("/steer")
    typed(page, "london", ".target")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert page.locator(".target").first.input_value() == "␣London"
    page.locator("#another").click()
    typed(page, "pari", ".intervention:nth-child(2) .target")


def test_a_token_that_nothing_is_named_after_says_so(page):
    page.goto("/tiny/1-vasae/0")
    typed(page, "7")
    said = page.locator("ul.complete:not([hidden]) li > span:last-child").first.inner_text()
    assert "nothing is named after it" in said


def test_the_feature_to_follow_is_found_by_its_word(page):
    page.goto("/read?model=tiny")
    page.get_by_text("More options").click()
    page.locator("[name=feature]").click()
    page.keyboard.type("paris")
    page.wait_for_selector("ul.complete:not([hidden]) li")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert re.fullmatch(r"tiny/\d-\w+/\d+", page.locator("[name=feature]").input_value())


def test_a_suggested_feature_has_its_relation_on_a_phone_too(page):
    page.set_viewport_size({"width": 390, "height": 800})
    page.goto("/read?model=tiny")
    page.get_by_text("More options").click()
    page.locator("[name=feature]").click()
    page.keyboard.type("paris")
    option = page.locator(OPTIONS).first
    option.wait_for()
    assert option.get_by_text("fires ").is_visible()


def test_a_slash_alone_makes_no_id(page):
    page.goto("/steer")
    page.locator(".target").first.click()
    with page.expect_response(lambda response: "prefix=and%2Fo" in response.url):
        page.keyboard.type("and/o")


def test_a_click_chooses(page):
    page.goto("/tiny/1-vasae/0")
    options = typed(page, "lond")
    page.locator("ul.complete:not([hidden]) li").first.click()
    page.wait_for_url("**/tokens/**")
    assert page.locator("h1").inner_text() == options[0]


@pytest.mark.parametrize("text", ["tiny/1-vasae/3", "   "])
def test_an_id_or_nothing_offers_nothing(page, text):
    page.goto("/steer")
    page.locator(".target").first.click()
    page.keyboard.type(text)
    page.wait_for_timeout(400)
    assert page.locator("ul.complete:not([hidden])").count() == 0
