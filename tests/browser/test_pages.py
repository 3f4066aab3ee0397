"""Every page: no errors on the console, no other host, legible text, usable without a mouse and without
scripts.
"""

from importlib.util import find_spec
from urllib.parse import urlsplit

import httpx
import pytest

TOO_SMALL = """[...document.querySelectorAll("body *")].filter(e =>
    e.checkVisibility() && !["SCRIPT", "OPTION", "TEMPLATE", "title"].includes(e.tagName)
    && [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())
    && parseFloat(getComputedStyle(e).fontSize) < 14).map(e => e.outerHTML.slice(0, 80))"""
NAMELESS = """[...document.querySelectorAll("input:not([type=hidden]), select, textarea, button, main a")]
    .filter(e => e.checkVisibility() && !(e.labels?.length || e.textContent.trim() || e.ariaLabel))
    .map(e => e.outerHTML.slice(0, 80))"""

PATHS = [
    "/",
    "/search",
    "/search?q=paris",
    "/search?q=paris&min_cosine=0.9&live=true",
    "/search?q=7",
    "/search?q=zzzz",
    "/search?q=%3Cscript%3Ealert(1)%3C/script%3E",
    "/tokens/tiny/0",
    "/tokens/tiny/16",
    "/tiny/1-vasae",
    "/tiny/1-vasae?sort=cosine&descending=true",
    "/tiny/1-vasae/0",
    "/tiny/1-vasae/9",
    "/tiny/1-vasae/35",
    "/tiny/1-plain",
    "/tiny/1-plain/6",
    "/docs",
    "/progress",
    pytest.param(
        "/steer",
        marks=pytest.mark.skipif(find_spec("server.steer") is None, reason="this server has no /steer"),
    ),
]


@pytest.mark.parametrize("path", PATHS)
def test_every_page_has_no_console_errors_no_other_host_and_legible_text(page, path):
    complaints, requests = [], []
    page.on(
        "console",
        lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None,
    )
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    answer = page.goto(path, wait_until="networkidle")
    assert answer.status == 200
    assert complaints == []
    assert {urlsplit(url).hostname for url in requests if not url.startswith(("data:", "blob:"))} == {
        "127.0.0.1"
    }
    assert page.evaluate(TOO_SMALL) == []
    assert page.evaluate(NAMELESS) == []
    assert page.locator("h1").count() == 1


@pytest.mark.parametrize("path", PATHS)
def test_every_page_fits_a_phone(page, path):
    page.set_viewport_size({"width": 400, "height": 800})
    page.goto(path, wait_until="networkidle")
    assert page.evaluate("document.documentElement.scrollWidth") <= 400


def test_text_stands_out_from_its_background_in_both_modes(page):
    """WCAG AA, 4.5 to 1: every text colour of the stylesheet on every ground it is used on."""
    ratio = """names => {
        const shade = value => {
            const probe = document.body.appendChild(document.createElement("i"));
            probe.style.color = `var(--${value})`;
            const canvas = document.createElement("canvas").getContext("2d");
            canvas.fillStyle = getComputedStyle(probe).color;
            canvas.fillRect(0, 0, 1, 1);
            probe.remove();
            const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map(c => c / 255)
                .map(c => c <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4);
            return .2126 * r + .7152 * g + .0722 * b + .05;
        };
        const [a, b] = names.map(shade);
        return Math.max(a, b) / Math.min(a, b);
    }"""
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        page.goto("/")
        for ink in (
            "ink",
            "muted",
            "accent",
            "v-specific",
            "v-partial",
            "v-weak",
            "v-none",
            "v-untested",
            "v-dead",
        ):
            for ground in ("bg", "panel"):
                assert page.evaluate(ratio, [ink, ground]) >= 4.5, f"{ink} on {ground}, {scheme}"
        assert page.evaluate(ratio, ["ink", "heat"]) >= 4.5, f"text on the strongest activation, {scheme}"


def test_dark_mode_follows_the_system(page):
    background = "getComputedStyle(document.body).backgroundColor"
    page.goto("/")
    light = page.evaluate(background)
    page.emulate_media(color_scheme="dark")
    assert page.evaluate(background) != light


def test_the_theme_button_changes_the_background_and_is_remembered(page):
    background = "getComputedStyle(document.body).backgroundColor"
    page.goto("/")
    light = page.evaluate(background)
    page.get_by_role("button", name="Dark").click()
    dark = page.evaluate(background)
    assert dark != light
    page.goto("/search?q=paris")
    assert page.evaluate(background) == dark


def test_an_error_page_says_what_is_wrong_and_where_to_go(page):
    answer = page.goto("/tiny/1-vasae/99999")
    assert answer.status == 404
    assert page.locator("main").inner_text().strip()
    assert page.get_by_role("link", name="All dictionaries").get_attribute("href") == "/"


def test_pages_are_complete_without_scripts(chromium, site):
    context = chromium.new_context(base_url=site, java_script_enabled=False)
    page = context.new_page()
    page.goto("/")
    page.get_by_role("searchbox").fill("Paris")
    page.keyboard.press("Enter")
    page.locator(".features a.chip").first.click()
    assert page.locator(".contexts li").count() > 0
    assert page.locator(".drawing").all()
    assert all(drawing.is_visible() for drawing in page.locator(".drawing").all())
    context.close()


def test_the_footer_links_the_same_record_as_json(page, site):
    for path in (
        "/",
        "/search?q=paris",
        "/tokens/tiny/0",
        "/tiny/1-vasae",
        "/tiny/1-vasae/0",
    ):
        page.goto(path)
        link = page.get_by_role("link", name="This page as JSON").get_attribute("href")
        assert httpx.get(site + link).json()["build"] in page.locator("footer").inner_text()


def test_the_home_page_tabulates_each_dictionary(page):
    page.goto("/")
    assert page.locator("table.layers tbody tr").count() == 5


def test_the_home_page_says_in_one_screen_what_is_here_and_how_well_names_hold(page):
    page.set_viewport_size({"width": 1280, "height": 800})
    page.goto("/")
    assert page.evaluate("document.activeElement.name") == "q", "the word box has the focus"
    row = page.locator("table.layers tbody tr").first
    box = row.bounding_box()
    assert box["y"] + box["height"] < 800, "the first figures are in sight"
    heads = page.locator("table.layers").first.locator("thead th").all_inner_texts()
    assert {"name holds", "share, median", "chance, median"} <= {" ".join(head.split()) for head in heads}
    headings = page.locator("h3").all_inner_texts()
    assert headings.index("Names and costs by layer") < headings.index("Alignment by layer")
    assert "A language model with a vocabulary of 300 tokens" in page.locator("main").inner_text()


def test_about_says_what_names_are_and_defines_a_measure_of_the_home_page(page):
    page.goto("/")
    meaning = page.locator("table.layers th abbr", has_text="finds").first.get_attribute("title")
    page.get_by_role("navigation", name="Site").get_by_role("link", name="About").click()
    page.get_by_role("heading", name="A name is not").wait_for()
    for relation in ("on", "after", "before", "near"):
        assert page.get_by_role("term").get_by_text(relation, exact=True).count() == 1
    page.get_by_role("link", name="Of a dictionary, on the indexed text").click()
    row = page.locator("tr", has=page.locator("code", has_text="finds"))
    assert meaning.rstrip(".") in row.first.inner_text()
