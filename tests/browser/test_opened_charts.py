"""Charts need no script; one that is opened can be zoomed, read and exported, and never keeps a page from
scrolling.
"""

import pytest

HOME, DICTIONARY = "/", "/tiny/1-vasae"


@pytest.fixture
def loaded(page):
    """The addresses of the files that the page has asked for."""
    files = []
    page.on("request", lambda request: files.append(request.url))
    return files


def test_charts_are_drawn_without_scripts(chromium, site):
    context = chromium.new_context(base_url=site, java_script_enabled=False)
    page = context.new_page()
    page.goto(HOME)
    assert page.locator(".panels .drawing").count() == 12
    box = page.locator(".panels .drawing circle").first.bounding_box()
    assert box["width"] > 4
    assert page.locator(".marks li").count() == 2 * 3, "a legend for names and one for alignment"
    page.locator(".panels summary").first.click()
    assert page.locator(".panels .numbers table").first.is_visible()
    context.close()


def test_a_click_on_a_point_opens_the_dictionary_behind_it(page):
    page.goto(HOME)
    page.locator(".panels .drawing a").first.click()
    page.wait_for_url("**/tiny/*")


def test_plotly_is_loaded_by_the_first_chart_that_is_opened(page, loaded):
    complaints = []
    page.on("console", lambda message: complaints.append(message.text))
    page.goto(DICTIONARY, wait_until="networkidle")
    assert not any("plotly" in file for file in loaded)
    figure = page.locator("figure[data-chart=densities]")
    figure.get_by_role("button", name="Zoom and export").click()
    figure.locator(".plot .barlayer path").first.wait_for()
    assert not figure.locator(".drawing").is_visible()
    assert sum("plotly" in file for file in loaded) == 1
    assert complaints == [], "the policy of the site forbids nothing that Plotly does"
    with page.expect_download() as download:
        figure.get_by_role("button", name="CSV").click()
    assert download.value.path().read_text().startswith('"From, to",Features') or (
        download.value.path().read_text().startswith("From, to")
    )
    with page.expect_download() as download:
        figure.get_by_role("button", name="SVG").click()
    assert "<svg" in download.value.path().read_text()
    assert complaints == []
    figure.get_by_role("button", name="Close").click()
    assert figure.locator(".drawing").is_visible()


def test_a_bar_of_an_opened_chart_leads_to_its_features(page):
    page.goto(DICTIONARY)
    figure = page.locator("figure[data-chart=densities]")
    figure.get_by_role("button", name="Zoom and export").click()
    bar = figure.locator(".plot .barlayer path").first
    bar.wait_for()
    box = bar.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] - 4)
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] - 4)
    page.wait_for_url("**min_density=**")


def test_a_swipe_over_an_open_chart_scrolls_the_page(chromium, site):
    context = chromium.new_context(
        base_url=site, viewport={"width": 390, "height": 700}, has_touch=True, is_mobile=True
    )
    page = context.new_page()
    page.goto(DICTIONARY)
    figure = page.locator("figure[data-chart=cosines]")
    session = context.new_cdp_session(page)

    def touch(kind, *points):
        places = [{"x": 180, "y": y} for y in points]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": places})

    for opened in (False, True):
        if opened:
            figure.get_by_role("button", name="Zoom and export").click()
            figure.get_by_role("button", name="Close").wait_for()
        figure.evaluate("figure => scrollTo(0, figure.getBoundingClientRect().top + scrollY - 300)")
        before = page.evaluate("scrollY")
        touch("touchStart", 400)
        for step in range(1, 11):
            touch("touchMove", 400 - 20 * step)
        touch("touchEnd")
        page.wait_for_function("before => scrollY > before + 100", arg=before)
    context.close()
