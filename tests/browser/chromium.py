"""The Chromium that tests, screenshots and benches drive: one of the system, else playwright's own."""

import shutil
from pathlib import Path

from playwright.sync_api import Browser, Playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")


class NoBrowser(Exception):
    """There is none; the message says where it was looked for."""


def executable(playwright: Playwright) -> Path:
    """Raises NoBrowser."""
    found = next(filter(None, map(shutil.which, NAMES)), playwright.chromium.executable_path)
    if not Path(found).exists():
        names = ", ".join(NAMES)
        raise NoBrowser(f"there is none of {names} (Debian: apt-get install chromium), nor playwright's own")
    return Path(found)


def launch(playwright: Playwright) -> Browser:
    """Raises NoBrowser."""
    return playwright.chromium.launch(
        executable_path=executable(playwright),
        args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
    )
