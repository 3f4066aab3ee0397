"""`make screenshots`: every kind of page of a running server as pictures, to look at: light, dark, and on a
phone.

    python -m tests.browser.screenshots http://127.0.0.1:8000 [FOLDER] [--word WORD]

The pages are those of the first model of the home page and of its middle dictionary.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import httpx
from playwright.sync_api import sync_playwright

from tests.browser.conftest import CHROMIUM

FOLDER = Path(__file__).parents[2] / "docs" / "screenshots"
VIEWS = {
    "light": {"viewport": {"width": 1280, "height": 800}, "color_scheme": "light"},
    "dark": {"viewport": {"width": 1280, "height": 800}, "color_scheme": "dark"},
    "phone": {"viewport": {"width": 390, "height": 844}, "color_scheme": "light"},
}
TALLEST = 2400
"""pixels of a page that a picture shows"""
TEXT = "The old man went down to the river, and his wife came after him."


def pages(client: httpx.Client, word: str) -> Iterator[tuple[str, str]]:
    """(name of the picture, address)"""

    def record(path: str, **query: object) -> dict:
        return client.get(path, params=query).raise_for_status().json()

    (model, *_) = record("/index.json")["models"]
    layers = model["layers"]
    source = f"/{model['model']}/{layers[len(layers) // 2]['source']}"
    found = record("/search.json", q=word, model=model["model"])
    token, features = found["tokens"][0]["token"], found["features"]
    feature = f"/{features[0]['id']}" if features else client.get("/random").headers["location"]
    yield "home", "/"
    yield "search", f"/search?{urlencode({'q': word})}"
    yield "token", f"/tokens/{model['model']}/{token['id']}"
    yield "dictionary", source
    yield "dictionary-made", f"{source}/made"
    yield "feature", feature
    yield "read", f"/read?{urlencode({'model': model['model'], 'text': TEXT})}"
    yield "compare", "/compare"
    yield "steer", f"/steer?{urlencode({'model': model['model']})}"
    yield "studies", "/studies"
    yield "about", "/about"
    yield "progress", "/progress"
    yield "api", "/docs"
    yield "not-found", f"{source}/999999999"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("url", nargs="?", default="http://127.0.0.1:8000")
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER)
    parser.add_argument("--word", default="king", help="what is searched for")
    given = parser.parse_args()
    with httpx.Client(base_url=given.url, timeout=60) as client:
        todo = list(pages(client, given.word))
    given.folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        for view, options in VIEWS.items():
            page = browser.new_context(base_url=given.url, **options).new_page()
            for name, address in todo:
                page.goto(address, wait_until="networkidle", timeout=120_000)
                picture = given.folder / f"{name}-{view}.png"
                width = options["viewport"]["width"]
                height = min(page.evaluate("document.documentElement.scrollHeight"), TALLEST)
                page.set_viewport_size({"width": width, "height": height})
                page.screenshot(path=picture, timeout=120_000)
                page.set_viewport_size(options["viewport"])
                print(picture)
        browser.close()


if __name__ == "__main__":
    main()
