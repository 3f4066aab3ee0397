"""`python -m bench.page_weights URL [--loads 3]`: what the pages of a running server weigh over the wire, how
far their content moves while they load, and when their largest part is painted.

The pages are those of `make screenshots`, each in a fresh browser without a cache, at 1280 × 800. Shift and
paint are the browser's own figures (layout-shift, largest-contentful-paint), the medians of the loads.
"""

import argparse
from statistics import median
from typing import NamedTuple

import httpx
from playwright.sync_api import Browser, sync_playwright

from bench.report import Report, write_option
from tests.browser.chromium import launch
from tests.browser.screenshots import pages

WIRE, SHIFT, PAINT = 200_000, 0.02, 1.0
"""At most: bytes over the wire, layout shift, seconds to the largest contentful paint."""
PAINTED = """() => new Promise(resolve => {
    let shift = 0, paint = 0;
    new PerformanceObserver(list => {
        for (const entry of list.getEntries()) if (!entry.hadRecentInput) shift += entry.value;
    }).observe({type: "layout-shift", buffered: true});
    new PerformanceObserver(list => {
        for (const entry of list.getEntries()) paint = entry.startTime;
    }).observe({type: "largest-contentful-paint", buffered: true});
    setTimeout(() => resolve([shift, paint / 1000]), 600);
})"""


class Load(NamedTuple):
    """One load of a page."""

    wire: int
    """bytes, headers included"""
    shift: float
    paint: float
    """seconds after the start of the navigation"""


def load(browser: Browser, url: str) -> Load:
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page, weights = context.new_page(), []
    session = context.new_cdp_session(page)
    session.send("Network.enable")
    session.on("Network.loadingFinished", lambda event: weights.append(event["encodedDataLength"]))
    page.goto(url, wait_until="networkidle", timeout=120_000)
    shift, paint = page.evaluate(PAINTED)
    context.close()
    return Load(round(sum(weights)), shift, paint)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("url", nargs="?", default="http://127.0.0.1:8000")
    parser.add_argument("--loads", type=int, default=3)
    parser.add_argument("--word", default="king", help="what is searched for")
    write_option(parser)
    given = parser.parse_args()
    report = Report("page_weights")
    columns = [
        "page",
        f"kB over the wire (≤ {WIRE // 1000})",
        f"layout shift (≤ {SHIFT})",
        f"paint, s (≤ {PAINT:g})",
    ]
    table = report.table("1280 × 800, without a cache", columns)
    with httpx.Client(base_url=given.url, timeout=120) as client:
        todo = list(pages(client, given.word))
    with sync_playwright() as playwright:
        browser = launch(playwright)
        for name, address in todo:
            wire, shift, paint = map(
                median, zip(*(load(browser, given.url + address) for _ in range(given.loads)), strict=True)
            )
            table.rows.append([name, f"{wire / 1000:.0f}", f"{shift:.3f}", f"{paint:.2f}" if paint else "–"])
        browser.close()
    report.finish(write=given.write)


if __name__ == "__main__":
    main()
