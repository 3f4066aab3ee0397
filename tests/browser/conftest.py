"""The application over the synthetic index, on a free port of 127.0.0.1, and a Chromium.

All tests here are skipped, with the reason, where playwright or the browser is missing.
"""

from collections.abc import Iterator

import pytest

from lexiscope.settings import Settings
from server import create_app
from tests.server_thread import running
from tests.store import synthetic

try:
    from playwright.sync_api import Browser, BrowserContext, Page, Route, sync_playwright

    from tests.browser.chromium import NoBrowser, launch
except ImportError:
    sync_playwright = None  # type: ignore[assignment]


@pytest.fixture(scope="session")
def chromium() -> Iterator["Browser"]:
    if sync_playwright is None:
        pytest.skip("playwright is not installed")
    with sync_playwright() as playwright:
        try:
            browser = launch(playwright)
        except NoBrowser as why:
            pytest.skip(str(why))
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Base URL of the server over the synthetic index."""
    root = tmp_path_factory.mktemp("index")
    synthetic.publish(root)
    with running(create_app(Settings(index=root))) as address:
        yield address


@pytest.fixture
def context(chromium: "Browser", site: str) -> Iterator["BrowserContext"]:
    context = chromium.new_context(
        base_url=site, color_scheme="light", viewport={"width": 1280, "height": 900}
    )
    context.set_default_timeout(60_000)  # of patience with a busy machine, not of waiting
    yield context
    context.close()


@pytest.fixture
def page(context: "BrowserContext") -> "Page":
    return context.new_page()


def held(page: "Page", address: str) -> list["Route"]:
    """The requests for an address from now on, which wait until the test answers them."""
    waiting: list[Route] = []

    def hold(route: "Route") -> None:
        waiting.append(route)

    page.route(address, hold)
    return waiting
