"""The application over the synthetic index, on a free port of 127.0.0.1, and a Chromium.

All tests here are skipped, with the reason, where playwright or the browser is missing.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import uvicorn

from lexiscope.settings import Settings
from server import create_app
from tests.store import synthetic

CHROMIUM = Path("/usr/bin/chromium")

try:
    from playwright.sync_api import Browser, BrowserContext, Page, Route, sync_playwright
except ImportError:
    sync_playwright = None  # type: ignore[assignment]


@pytest.fixture(scope="session")
def chromium() -> Iterator["Browser"]:
    if sync_playwright is None:
        pytest.skip("playwright is not installed")
    if not CHROMIUM.exists():
        pytest.skip(f"there is no browser at {CHROMIUM}")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=str(CHROMIUM),
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        yield browser
        browser.close()


@contextmanager
def running(settings: Settings) -> Iterator[str]:
    """Base URL of a server in a thread of its own."""
    server = uvicorn.Server(
        uvicorn.Config(create_app(settings), host="127.0.0.1", port=0, log_level="warning")
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 60
    while not server.started:
        assert thread.is_alive() and time.monotonic() < deadline, "the server did not start"
        time.sleep(0.02)
    host, port = server.servers[0].sockets[0].getsockname()[:2]
    yield f"http://{host}:{port}"
    server.should_exit = True
    thread.join(10)


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Base URL of the server over the synthetic index."""
    root = tmp_path_factory.mktemp("index")
    synthetic.publish(root)
    with running(Settings(index=root)) as address:
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
