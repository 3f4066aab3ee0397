"""From a token to its features and their pages."""

import re

import httpx

FEATURE = re.compile(r"^/[^/]+/\d+-[^/]+/\d+$")


def test_typing_a_token_and_enter_lists_its_features(page):
    page.goto("/")
    page.keyboard.type("paris")  # the box has the focus
    page.keyboard.press("Enter")
    page.wait_for_url("**/search?q=paris")
    names = page.locator(".features tbody .chip").all_inner_texts()
    assert {"␣Paris", "␣paris"} <= set(names), "case does not matter"
    for link in page.locator(".features tbody a.chip").all():
        assert FEATURE.match(link.get_attribute("href"))


def test_a_feature_is_reached_from_home_by_keyboard_alone(page):
    page.goto("/")
    page.keyboard.type("London")
    page.keyboard.press("Enter")
    page.wait_for_url("**/search?q=London")
    for _ in range(80):
        page.keyboard.press("Tab")
        if FEATURE.match(page.evaluate("document.activeElement.getAttribute('href') ?? ''")):
            break
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline != "none", "the focus can be seen"
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile(r"/\d+-[^/]+/\d+$"))
    assert "␣London" in page.locator("header.title").inner_text()


def test_slash_focuses_the_search_box_and_types_itself_inside_it(page):
    page.goto("/tiny/1-vasae/0")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.name") == "q"
    page.keyboard.type("a/b")
    assert page.locator("#q").input_value() == "a/b"


def test_the_first_tab_skips_to_the_content(page):
    page.goto("/tiny/1-vasae/0")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"


def test_a_feature_page_shows_the_cosine_of_its_json(page, site):
    page.goto("/tiny/1-vasae/3")
    feature = httpx.get(f"{site}/tiny/1-vasae/3.json").json()["feature"]
    shown = page.locator(".cosine data")
    assert float(shown.get_attribute("value")) == feature["cosine"]
    assert shown.inner_text() == f"{feature['cosine']:.3f}"


def test_name_verdict_and_its_meaning_are_in_the_title(page, site):
    page.goto("/tiny/1-vasae/3")
    feature = httpx.get(f"{site}/tiny/1-vasae/3.json").json()["feature"]
    title = page.locator("header.title").inner_text()
    assert (
        feature["name"]["shown"] in title
        and feature["verdict"] in title
        and feature["verdict_words"] in title
    )


def test_a_dead_feature_is_marked_and_has_no_empty_chart(page):
    page.goto("/tiny/1-vasae/9")
    assert "Dead." in page.locator("main").inner_text() and "1 firings" not in page.content()
    assert page.locator(".histogram").count() == 0
    assert page.locator(".contexts").count() == 0


def test_a_feature_page_has_a_section_for_each_kind_of_evidence(page):
    page.goto("/tiny/1-vasae/6")
    headings = page.locator("main :is(h2, h3)").all_inner_texts()
    for heading in (
        "What it fires on",
        "Single tokens that fit it best",
        "Contexts",
        "How often, how strongly, where in a passage",
        "Ablation",
        "Effect on the output",
        "Related features",
    ):
        assert heading in headings
    position = page.locator(".histogram.short")
    assert position.locator("rect").count() == 2 and position.locator("line").count() == 1


def test_a_related_feature_in_the_next_layer_is_a_link(page):
    page.goto("/tiny/1-vasae/6")
    page.locator("#near ~ .three > div").last.locator("a.chip").first.click()
    page.wait_for_url(re.compile(r"/tiny/2-vasae/\d+$"))


def test_a_token_that_is_no_name_is_marked_on_its_page(page):
    page.goto("/tokens/tiny/16")
    assert "Not a name." in page.locator("header.title").inner_text()


def test_verdict_counts_link_to_their_features(page):
    page.goto("/tiny/1-vasae")
    page.locator(".verdicts tr", has_text="partial").get_by_role("link").click()
    page.wait_for_url("**verdict=partial**")
    assert set(page.locator(".features tbody .badge").all_inner_texts()) == {"partial"}


def test_arrow_keys_show_the_tokens_and_activations_of_a_context(page):
    page.goto("/tiny/1-vasae/3")
    page.locator(".contexts li").first.focus()
    page.keyboard.press("ArrowRight")
    readout = page.locator("#readout")
    assert re.fullmatch(r"\S+ · token \d+ · 2\.5000", readout.inner_text())
    before = readout.inner_text()
    page.keyboard.press("ArrowLeft")
    assert readout.inner_text() != before


def test_firing_tokens_are_aligned_down_the_page(page):
    page.goto("/tiny/1-vasae/3")
    lefts = {round(token.bounding_box()["x"]) for token in page.locator(".contexts .fired").all()}
    assert len(lefts) == 1


def test_a_script_in_the_query_is_text(page):
    ran = []
    page.on("dialog", lambda dialog: (ran.append(dialog.message), dialog.dismiss()))
    page.goto("/search?q=%3Cscript%3Ealert(1)%3C%2Fscript%3E")
    assert ran == []
    assert "<script>alert(1)</script>" in page.locator("h1").inner_text()


def test_a_token_that_is_no_name_is_found_and_marked(page):
    page.goto("/search?q=7")
    assert "names no feature" in page.locator(".hits li").first.inner_text()


def test_a_search_without_results_suggests_what_to_try(page):
    page.goto("/search?q=zzzzzz")
    assert "No token of any model contains zzzzzz" in page.locator("main").inner_text()


def test_filters_keep_the_query_and_narrow_the_list(page):
    page.goto("/search?q=word")
    page.get_by_text("Filter and sort").click()
    page.get_by_label("Verdict").select_option("weak")
    page.get_by_role("button", name="Apply").click()
    page.wait_for_load_state()
    assert page.locator("#q").input_value() == "word"
    assert set(page.locator(".features tbody .badge").all_inner_texts()) == {"weak"}


def test_a_column_head_sorts_and_reverses(page):
    page.goto("/tiny/1-vasae")
    cosines = lambda: [float(c) for c in page.locator(".features td:nth-child(5) data").all_inner_texts()]
    page.locator(".features").get_by_role("link", name="Cosine").click()
    page.wait_for_url("**sort=cosine&descending=true")
    assert cosines() == sorted(cosines(), reverse=True)
    page.locator(".features").get_by_role("link", name="Cosine").click()
    page.wait_for_url("**sort=cosine&descending=false")
    assert cosines() == sorted(cosines())


def test_the_next_page_has_other_features(page):
    page.goto("/tiny/1-vasae")
    first = page.locator(".features tbody a.quiet").all_inner_texts()
    page.get_by_role("link", name="Next page").click()
    page.wait_for_url("**cursor=**")
    assert not set(first) & set(page.locator(".features tbody a.quiet").all_inner_texts())


def test_a_token_page_has_a_row_for_every_dictionary(page, site):
    page.goto("/tokens/tiny/0")
    layers = httpx.get(f"{site}/tokens/tiny/0.json").json()["layers"]
    assert page.locator(".bylayer tbody tr").count() == len(layers) == 4


def test_a_feature_is_judged_without_scrolling(page, site):
    page.set_viewport_size({"width": 1280, "height": 800})
    page.goto("/tiny/1-vasae/3")
    badge = page.locator(".verdict")
    feature = httpx.get(f"{site}/tiny/1-vasae/3.json").json()["feature"]
    fires = feature["fires"]
    assert badge.locator(".badge").inner_text() == feature["verdict"]
    assert f"{fires['share'] * 100:.1f} % of firings" in badge.inner_text()
    assert "chance" in badge.inner_text()
    last = page.locator(".contexts li").nth(2).bounding_box()
    assert last["y"] + last["height"] <= 800, "the first contexts are on the first screen"
    assert page.locator(".logits").first.bounding_box()["y"] < 700
    order = [page.locator(f"#{name}").bounding_box()["y"] for name in ("contexts", "naming", "activity")]
    assert order == sorted(order), "moments and positions come last"


def test_the_id_of_a_feature_is_copied(page, context):
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.goto("/tiny/1-vasae/3")
    page.get_by_role("button", name="Copy id").click()
    page.get_by_role("button", name="Copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == "tiny/1-vasae/3"
