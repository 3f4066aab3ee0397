"""From a token to its features and their pages."""

import csv
import re
from urllib.parse import quote

import httpx
import pytest

from lexiscope.records import NUMBERS

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
    assert page.locator("#activity ~ .two figure svg").count() == 2


def test_a_phone_has_every_figure_of_the_evidence_and_no_bars(page):
    page.set_viewport_size({"width": 390, "height": 800})
    page.goto("/tiny/1-vasae/6")
    heads = page.locator("section:has(> #writes) thead th")
    assert heads.all_inner_texts()[-1] == "added, rises by" and heads.last.is_visible()
    bars = page.locator(".evidence td:has(.bar)")
    assert bars.count() > 2 and not any(bar.is_visible() for bar in bars.all())


def test_a_label_is_written_where_nothing_is_stored_and_a_server_that_is_away_is_said(page):
    page.add_init_script(
        "Storage.prototype.getItem = Storage.prototype.setItem = () => { throw new Error(); }"
    )
    page.route("**/labels", lambda route: route.abort())
    page.goto("/tiny/1-vasae/6")
    page.get_by_label("Label", exact=True).fill("capitals")
    page.get_by_role("button", name="Add").click()
    page.get_by_role("alert").get_by_text("The server cannot be reached").wait_for()
    assert page.get_by_label("Label", exact=True).input_value() == "capitals"


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
    assert "nothing is named after it" in page.locator(".hits tbody tr").first.inner_text()


def test_a_search_without_results_suggests_what_to_try(page):
    page.goto("/search?q=zzzzzz")
    assert "No token of any model contains zzzzzz" in page.locator("main").inner_text()


def test_a_search_says_how_many_there_are_and_pages_through_the_tokens(page):
    page.goto("/search?q=word&limit=50")
    assert "1–50 of" in page.locator("#tokens-found small").inner_text()
    assert re.fullmatch(r"1–50 of [\d,]+ features", page.locator("#features small").inner_text())
    page.get_by_role("link", name="More tokens").click()
    page.wait_for_url("**tokens_from=50**")
    assert "51–100 of" in page.locator("#tokens-found small").inner_text()
    assert FEATURE.match(page.locator(".hits a.best").first.get_attribute("href"))


@pytest.mark.parametrize("query", [r"\n", "0x0a", "#9"])
def test_a_line_break_is_found_by_its_escape_its_byte_and_its_id(page, query):
    page.goto("/")
    page.locator("#q").fill(query)
    page.keyboard.press("Enter")
    page.wait_for_url("**/search**")
    assert page.locator(".hits .chip").first.inner_text() == "↵"


def test_a_long_query_and_one_from_right_to_left_leave_the_page_as_it_is(page):
    page.set_viewport_size({"width": 390, "height": 800})
    for query in ("a" * 200, "שלום paris عربي", "\u202eevil"):
        page.goto("/search?q=" + quote(query))
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert page.locator("h1 q").evaluate("q => getComputedStyle(q).unicodeBidi") == "isolate"
    assert page.goto("/search?q=" + 10_000 * "a").status == 422
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    heading = page.locator("h1").evaluate("h => h.getBoundingClientRect().left")
    assert heading < 40


def test_filters_keep_the_query_and_narrow_the_list(page):
    page.goto("/search?q=word")
    page.get_by_text("Filter and sort").click()
    page.locator("select[name=verdict]").select_option("weak")
    page.get_by_role("button", name="Apply").click()
    page.wait_for_load_state()
    assert page.locator("#q").input_value() == "word"
    assert set(page.locator(".features tbody .badge").all_inner_texts()) == {"weak"}


def test_a_column_head_sorts_and_reverses(page):
    page.goto("/tiny/1-vasae")
    cosines = lambda: [float(c) for c in page.locator(".features td:nth-child(5) data").all_inner_texts()]
    page.locator(".features").get_by_role("link", name="Cosine").click()
    page.wait_for_url("**sort=cosine&descending=true#features")
    assert cosines() == sorted(cosines(), reverse=True)
    page.locator(".features").get_by_role("link", name="Cosine").click()
    page.wait_for_url("**sort=cosine&descending=false#features")
    assert cosines() == sorted(cosines())


def test_the_next_page_has_other_features(page):
    page.goto("/tiny/1-vasae")
    first = page.locator(".features tbody a.quiet").all_inner_texts()
    page.get_by_role("link", name="Next page").click()
    page.wait_for_url("**cursor=**")
    assert not set(first) & set(page.locator(".features tbody a.quiet").all_inner_texts())


def test_a_list_is_narrowed_counted_paged_and_keeps_its_place(page):
    page.goto("/tiny/1-vasae")
    page.locator(".facets").get_by_role("link", name="weak 40").click()
    page.wait_for_url("**verdict=weak#features")
    assert page.locator("#features small").inner_text() == "40 features"
    page.goto("/tiny/1-vasae?limit=15")
    page.get_by_role("link", name="Next page").click()
    page.wait_for_url("**cursor=**#features")
    assert page.locator("#features small").inner_text() == "16–30 of 200 features"
    top = page.locator("#features").bounding_box()["y"]
    assert -2 < top < 100, "the list is in sight, not 1,300 px below"
    page.get_by_role("link", name="Previous page").click()
    page.wait_for_function("document.querySelector('#features small').textContent.trim().startsWith('1–15')")


def test_a_list_is_sorted_by_any_number_and_shows_it(page):
    page.goto("/tiny/1-vasae")
    page.get_by_text("Filter and sort").click()
    page.get_by_label("Any numbers").fill("name_rank <= 20, recall > 10 %")
    page.get_by_label("Sort by").select_option("skewness")
    page.get_by_label("largest first").check()
    page.get_by_role("button", name="Apply").click()
    page.wait_for_url("**sort=skewness**")
    shown = page.locator(".features td:nth-child(4) data").all_inner_texts()
    assert len(shown) > 3 and [float(v.replace("−", "-")) for v in shown] == sorted(
        (float(v.replace("−", "-")) for v in shown), reverse=True
    )


def test_next_and_random_stay_in_the_filtered_list(page):
    page.goto("/tiny/1-vasae?verdict=weak&sort=share&descending=true#features")
    rows = page.locator(".features tbody a.quiet").all_inner_texts()
    page.locator(".features tbody a.quiet").first.click()
    page.wait_for_url("**/tiny/1-vasae/*verdict=weak**")
    assert "1 of 40 in the filtered list" in page.locator("main").inner_text()
    page.locator("a[rel=next]").click()
    page.wait_for_function("document.querySelector('main').innerText.includes('2 of 40')")
    assert rows[1].endswith(page.locator(".crumbs [aria-current]").inner_text())
    page.get_by_role("link", name="Random", exact=True).last.click()
    page.wait_for_url("**/tiny/1-vasae/*verdict=weak**")
    assert page.locator(".verdict .badge").inner_text() == "weak"


def test_the_whole_filtered_list_is_a_csv_and_a_json_file(page, site):
    page.goto("/tiny/1-vasae?verdict=weak&sort=share&descending=true")
    with page.expect_download() as download:
        page.get_by_role("link", name="CSV").click()
    rows = list(csv.DictReader(download.value.path().read_text().splitlines()))
    assert len(rows) == 40 and {row["verdict"] for row in rows} == {"weak"}
    shares = [float(row["relation_share"]) for row in rows]
    assert shares == sorted(shares, reverse=True)
    listed = httpx.get(f"{site}/tiny/1-vasae/features.json?verdict=weak&sort=share&descending=true").json()
    assert [str(row["index"]) for row in listed] == [row["index"] for row in rows]
    assert listed[0]["words"] and set(NUMBERS) <= listed[0].keys()


def test_all_anchors_are_listed_page_by_page(page, site):
    page.goto("/tiny/1-vasae")
    page.get_by_role("link", name="All anchors").click()
    total = httpx.get(f"{site}/tiny/1-vasae/anchors.json").json()["total"]
    assert page.locator("tbody tr").count() == 100
    while page.get_by_role("link", name="Next page").count():
        page.get_by_role("link", name="Next page").click()
        page.wait_for_load_state()
    assert page.locator("tbody tr").count() == total % 100
    page.get_by_role("link", name="Previous page").click()
    page.wait_for_url("**start=**")


def test_a_token_page_has_a_small_multiple_for_every_dictionary(page, site):
    page.goto("/tokens/tiny/0")
    layers = httpx.get(f"{site}/tokens/tiny/0.json").json()["layers"]
    multiples = page.locator(".multiples > section")
    assert multiples.count() == len(layers) == 4
    one = page.locator(".multiples > section", has_text="0-vasae").first
    assert FEATURE.match(one.locator(".carriers a").first.get_attribute("href"))
    assert one.locator(".carriers .bar").count() and "its row in the look-up" in one.inner_text()
    one.get_by_role("link", name="Steer by it here").click()
    page.wait_for_url("**/steer?model=tiny&token=**")
    shown = httpx.get(f"{site}/tokens/tiny/0.json").json()["token"]["shown"]
    assert page.locator(".target").first.input_value() == shown
    assert page.locator("select.layer").first.input_value() == "0"


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
