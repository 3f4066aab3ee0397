"""`make screenshots`: every kind of page of a running server as pictures, to look at: light, dark, and on a
phone.

    python -m tests.browser.screenshots URL [FOLDER] [--word WORD] [--feature ID] [--steer ID]
    python -m tests.browser.screenshots URL --readme --feature ID --steer ID

The pages are those of the first model of the home page and of its middle dictionary. `--readme` makes the two
pictures of README.md instead, docs/feature.png and docs/steer.png.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
from playwright.sync_api import Page, sync_playwright

from tests.browser.chromium import launch

DOCS = Path(__file__).parents[2] / "docs"
FOLDER = DOCS / "screenshots"
VIEWS: dict[str, dict[str, Any]] = {
    "light": {"viewport": {"width": 1280, "height": 800}, "color_scheme": "light"},
    "dark": {"viewport": {"width": 1280, "height": 800}, "color_scheme": "dark"},
    "phone": {"viewport": {"width": 390, "height": 844}, "color_scheme": "light"},
}
TALLEST = 2400
"""pixels of a page that a picture shows"""
TEXT = "The old man went down to the river, and his wife came after him."
OTHER = "The committee published its annual report in the spring of 1984."
PROMPT = "The best thing about living here is"
PATIENCE = 240_000
"""milliseconds: the first reading loads the model"""


def pages(
    client: httpx.Client, word: str, feature: str = "", steered: str = "", strength: float = 0.5
) -> Iterator[tuple[str, str]]:
    """(name of the picture, address). Without a feature the first one that the word finds is shown, and
    without a steered one the feature that raises its token most.
    """

    def record(path: str, **query: Any) -> dict:
        return client.get(path, params=query).raise_for_status().json()

    (model, *_) = record("/index.json")["models"]
    layers, name = model["layers"], model["model"]
    source = f"/{name}/{layers[len(layers) // 2]['source']}"
    found = record("/search.json", q=word, model=name)
    token = found["tokens"][0]["token"]
    rising = [
        one
        for verdict in ({"write_verdict": "both"}, {"write_verdict": "steering"}, {})
        for one in record(f"{source}.json", sort="write_rise", descending=True, **verdict)["features"]
    ]
    feature = feature or (found["features"] or rising)[0]["id"]
    listed = [("feature", one["id"]) for one in (found["features"] or rising)[:3]]
    of_model = {"model": name}
    yield "home", "/"
    yield "search", f"/search?{urlencode({'q': word})}"
    yield "token", f"/tokens/{name}/{token['id']}"
    yield "dictionary", source
    yield "dictionary-anchors", f"{source}/anchors"
    yield "dictionary-made", f"{source}/made"
    yield "feature", f"/{feature}"
    yield "read", f"/read?{urlencode(of_model | {'text': TEXT})}"
    yield "read-contrast", f"/read?{urlencode(of_model | {'text': TEXT, 'contrast': OTHER})}"
    yield "compare", f"/compare?{urlencode(of_model | {'text': TEXT})}"
    steer = [{"id": steered or rising[0]["id"], "mode": "add", "strength": strength}]
    state = of_model | {"prompt": PROMPT, "features": steer}
    yield "steer", f"/steer?{urlencode({'state': json.dumps(state)})}"
    yield "lists", f"/lists?{urlencode([('name', word.capitalize()), *listed])}"
    yield "labels", "/labels"
    yield "studies", "/studies"
    for study in record("/studies.json")["studies"][:1]:
        yield "study", f"/studies/{study['name']}"
    yield "about", "/about"
    yield "progress", "/progress"
    yield "api", "/docs"
    yield "not-found", f"{source}/999999999"


def _steer(page: Page) -> None:
    """Run the steer, and wait for what it measures."""
    page.get_by_role("button", name="Steer", exact=True).click()
    page.get_by_text("Done, ").wait_for(timeout=PATIENCE)


ACTIONS: dict[str, Callable[[Page], None]] = {"steer": _steer}


def shoot(page: Page, address: str, name: str, picture: Path, tallest: int = TALLEST) -> None:
    page.goto(address, wait_until="networkidle", timeout=PATIENCE)
    ACTIONS.get(name, lambda page: None)(page)
    before = page.viewport_size
    assert before is not None
    height = min(page.evaluate("document.documentElement.scrollHeight"), tallest)
    page.set_viewport_size({"width": before["width"], "height": height})
    page.mouse.move(0, 0)
    page.screenshot(path=picture, timeout=PATIENCE)
    page.set_viewport_size(before)
    print(f"{picture} {picture.stat().st_size // 1000} kB")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("url", nargs="?", default="http://127.0.0.1:8000")
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER)
    parser.add_argument("--word", default="king", help="what is searched for")
    parser.add_argument("--feature", default="", help="the feature that is shown")
    parser.add_argument("--steer", default="", help="the feature that is steered with")
    parser.add_argument("--strength", type=float, default=0.5, help="of the steer")
    parser.add_argument("--only", action="append", help="make this picture; may be given several times")
    parser.add_argument("--readme", action="store_true", help="make the pictures of README.md")
    given = parser.parse_args()
    with httpx.Client(base_url=given.url, timeout=60) as client:
        todo = dict(pages(client, given.word, given.feature, given.steer, given.strength))
    only = given.only or list(todo)
    with sync_playwright() as playwright:
        browser = launch(playwright)
        if given.readme:
            page = browser.new_context(base_url=given.url, **VIEWS["light"]).new_page()
            shoot(page, todo["feature"], "feature", DOCS / "feature.png", tallest=800)
            shoot(page, todo["steer"], "steer", DOCS / "steer.png", tallest=1760)
            return
        given.folder.mkdir(parents=True, exist_ok=True)
        for view, options in VIEWS.items():
            page = browser.new_context(base_url=given.url, **options).new_page()
            for name in only:
                shoot(page, todo[name], name, given.folder / f"{name}-{view}.png")


if __name__ == "__main__":
    main()
