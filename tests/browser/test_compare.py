"""Two dictionaries are chosen, compared and read with; how one was made is a click away."""

from tests.browser.test_reading import client, reading, tiny  # noqa: F401 (fixtures)


def test_two_dictionaries_are_compared_and_read_a_text_together(reading):  # noqa: F811
    page = reading.new_page()
    page.goto("/compare")
    page.get_by_label("Left").select_option("1-random")
    page.get_by_label("Right").select_option("0-random")
    page.get_by_label("A text to read with both").fill("Once")
    page.get_by_role("button", name="Compare").click()
    page.get_by_role("heading", name="The text, read with both").wait_for()
    heads = page.locator("section:has(#text) thead th").all_inner_texts()
    assert heads == ["Token", "1-random", "Error", "0-random", "Error"]
    assert page.locator("section:has(#text) tbody tr").count() == len("Once")
    assert "random directions of the same covariance" in page.locator("main").inner_text()
    match = page.locator("section:has(#features) tbody tr").first
    assert match.locator("td").nth(0).locator("a").first.get_attribute("href").startswith("/tiny/1-random/")
    match.locator("td").nth(2).locator("a").first.click()
    page.wait_for_url("**/tiny/0-random/*")


def test_a_dictionary_leads_to_how_it_was_made(page):
    page.goto("/tiny/1-vasae")
    page.get_by_role("link", name="Recipe, anchors, text").click()
    page.get_by_role("heading", name="How 1-vasae was made").wait_for()
