"""axe-core finds no violation on any page or state, light and dark."""

import pytest
from axe_playwright_python.base import AXE_FILE_PATH

from lexiscope.progress import ProgressFile
from lexiscope.settings import Settings
from lexiscope.study_files import write_record
from server import create_app
from tests.browser.test_reading import client, reading, tiny  # noqa: F401 (fixtures)
from tests.server.test_study_pages import FLOW, record
from tests.server_thread import running
from tests.store import synthetic

AXE = AXE_FILE_PATH.read_text()
FOUND = """async () => (await axe.run(document, {resultTypes: ["violations"]})).violations.map(found => {
    const where = node => `${node.html.slice(0, 160)} (${node.failureSummary.slice(0, 300)})`;
    return `${found.id}: ${found.help}: ${found.nodes.slice(0, 3).map(where).join(" | ")}`;
})"""
INDEX = [
    *("/", "/search", "/search?q=paris", "/search?q=7", "/search?q=zzzz", "/search?q=word&limit=2&live=true"),
    *("/tokens/tiny/0", "/tokens/tiny/16", "/tiny/1-vasae", "/tiny/1-vasae?verdict=weak&sort=skewness"),
    *("/tiny/1-vasae/6", "/tiny/1-vasae/9", "/tiny/1-plain/6", "/tiny/1-vasae/made", "/tiny/1-vasae/anchors"),
    *("/compare", "/read", "/steer", "/lists", "/lists?feature=tiny/1-vasae/6", "/labels", "/studies"),
    *("/about", "/progress", "/docs", "/tiny/1-vasae/99999"),
]
LIVE = [
    "/read?model=tiny&text=Once&contrast=Bees&token=1",
    "/compare?model=tiny&left=0-random&right=1-random&text=Once",
]


def violations(page, path, *, state="load"):
    """Of both colour schemes."""
    page.goto(path, wait_until=state, timeout=240_000)  # the first reading starts a model worker
    page.evaluate(AXE)
    found = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        found += [f"{scheme}: {one}" for one in page.evaluate(FOUND)]
    return found


@pytest.mark.parametrize("path", INDEX)
def test_a_page_has_no_violation(page, path):
    assert violations(page, path) == []


@pytest.mark.parametrize("path", LIVE)
def test_a_page_that_was_read_with_the_model_has_no_violation(reading, path):  # noqa: F811
    assert violations(reading.new_page(), path) == []


def test_studies_and_a_build_that_runs_have_no_violation(chromium, tmp_path):
    index, empty, studies = (tmp_path / name for name in ("index", "empty", "studies"))
    synthetic.publish(index)
    write_record(studies, record("one-tiny", FLOW))
    context = chromium.new_context()
    page = context.new_page()
    with running(create_app(Settings(index=index, studies=studies))) as address:
        assert violations(page, f"{address}/studies") == [] == violations(page, f"{address}/studies/one-tiny")
    with (
        running(create_app(Settings(index=empty, studies=studies))) as address,
        ProgressFile(empty, "demo", ["train 4-vasae", "index 4-vasae"]) as kept,
        kept.step("train 4-vasae"),
    ):
        assert violations(page, f"{address}/progress") == [] == violations(page, f"{address}/demo/4-vasae/1")
    context.close()


def test_open_lists_dialogs_and_toasts_have_no_violation(page):
    page.goto("/tiny/1-vasae/6")
    page.keyboard.press("s")
    page.get_by_role("status").get_by_text("Saved").wait_for()
    page.keyboard.press("?")
    page.get_by_role("dialog", name="Keys").wait_for()
    page.evaluate(AXE)
    assert page.evaluate(FOUND) == []
    page.keyboard.press("Escape")
    page.locator("#q").fill("par")
    page.get_by_role("option").first.wait_for()
    assert page.evaluate(FOUND) == []
    assert violations(page, "/lists") == []
