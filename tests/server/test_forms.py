"""What a person fills in reaches the server as it is on the screen, and links say what they lead to."""

import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from fastapi.testclient import TestClient

from lexiscope.settings import Settings
from server import create_app
from server.compare import CompareQuery
from server.read import ReadQuery
from server.steer import SteerQuery
from store.read import token_page
from tests.store import synthetic


class Forms(HTMLParser):
    """The forms of a page that GET something: where to, and the fields as a browser would send them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, list[tuple[str, str]]]] = []
        self._inside, self._select, self._text = False, "", ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "form":
            self._inside = given.get("method") == "get"
            if self._inside:
                self.found.append((given["action"], []))
        if not self._inside:
            return
        fields = self.found[-1][1]
        if tag == "select":
            self._select = given["name"]
        elif tag == "option" and self._select:
            if "selected" in given or self._select not in dict(fields):
                fields[:] = [field for field in fields if field[0] != self._select]
                fields.append((self._select, given["value"]))
        elif tag == "textarea":
            self._text = given["name"]
            fields.append((self._text, ""))
        elif tag == "input" and "name" in given and (given.get("type") != "checkbox" or "checked" in given):
            fields.append((given["name"], given.get("value", "")))

    def handle_data(self, data: str) -> None:
        if self._text:
            self.found[-1][1][-1] = (self._text, data.removeprefix("\n"))

    def handle_endtag(self, tag: str) -> None:
        if tag == "select":
            self._select = ""
        elif tag == "textarea":
            self._text = ""
        elif tag == "form":
            self._inside = False


def sent(html: str, path: str, number: int = 0) -> dict[str, str]:
    """What the form of this action sends; `number` where there are several."""
    found = [fields for action, fields in Forms(html).found if urlsplit(action).path == path]
    fields = dict(found[number])
    assert len(fields) == len(found[number]), "no field is sent twice"
    return fields


SEARCH: dict[str, Any] = {
    **{"q": "word", "model": "tiny", "source": "1-vasae", "layer": 1, "match": "prefix", "limit": 7},
    **{"holds": True, "kind": "token", "live": True, "relation": "on", "verdict": "specific"},
    **{"write_verdict": "both", "min_share": 0.1, "min_cosine": 0.2, "min_density": 0.0, "max_density": 0.9},
    **{"where": "density < 1", "sort": "density", "descending": True},
}
DICTIONARY = {
    name: value for name, value in SEARCH.items() if name not in ("q", "model", "source", "layer", "match")
}


@pytest.mark.parametrize(
    ("path", "given", "header_forms"), [("/search", SEARCH, 1), ("/tiny/1-vasae", DICTIONARY, 0)]
)
def test_a_filter_form_keeps_the_filters_that_it_has_no_field_for(
    browser: TestClient, path: str, given: dict[str, Any], header_forms: int
) -> None:
    before = browser.get(f"{path}.json", params=given).json()["filters"]
    assert {name: before[name] for name in given if name != "q"} == {
        name: value for name, value in given.items() if name != "q"
    }
    form = sent(browser.get(path, params=given).text, path, header_forms)
    after = browser.get(f"{path}.json", params=form).json()["filters"]
    assert after == before
    changed = browser.get(f"{path}.json", params={**form, "verdict": "weak"}).json()["filters"]
    assert changed == {**before, "verdict": "weak"}


def test_the_forms_and_links_of_a_comparison_keep_what_is_on(browser: TestClient) -> None:
    given = {"model": "tiny", "left": "0-vasae", "right": "2-vasae", "text": "Once\nupon", "limit": "3"}
    given |= {"relation": "on", "sort": "index", "descending": "False", "live": "False"}
    html = browser.get("/compare", params=given).text
    for number in range(2):
        form = sent(html, "/compare", number)
        assert {name: value for name, value in form.items() if value} == {
            name: value.lower() if value == "False" else value for name, value in given.items()
        }
    [swapped] = re.findall(r'href="/compare\?([^"]+)">Swap sides', html)
    assert dict(parse_qsl(unescape(swapped))) == {**given, "left": "2-vasae", "right": "0-vasae"}
    assert not re.search(r'rel="next"', html) or "text=Once%0Aupon" in html


def test_the_form_of_labels_keeps_what_is_on(browser: TestClient) -> None:
    given = {"q": "a", "model": "tiny", "author": "Ann", "limit": "3"}
    assert sent(browser.get("/labels", params=given).text, "/labels") == given


@pytest.mark.parametrize(
    ("query", "field"),
    [(ReadQuery, "text"), (ReadQuery, "contrast"), (CompareQuery, "text"), (SteerQuery, "prompt")],
)
def test_a_text_of_many_lines_is_as_long_as_its_field_says(query: Any, field: str) -> None:
    lines = "\r\n".join(["x" * 99] * 200)  # 19,999 characters on the screen
    assert getattr(query.model_validate({field: lines}), field) == lines.replace("\r\n", "\n")


def test_a_text_that_begins_with_a_line_break_keeps_it_in_its_field(browser: TestClient) -> None:
    given = {"model": "tiny", "left": "0-vasae", "right": "2-vasae", "text": "\nOnce"}
    assert sent(browser.get("/compare", params=given).text, "/compare")["text"] == "\nOnce"
    assert ">\n\nOnce</textarea>" in browser.get("/steer", params={"prompt": "\r\nOnce"}).text


def test_a_link_to_all_features_of_a_relation_leads_to_as_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_page, "FEATURES_A_GROUP", 5)
    synthetic.publish(tmp_path, [synthetic.Dictionary("m", 0, d_sae=9000)])
    counted = []
    with TestClient(create_app(Settings(index=tmp_path))) as client:
        for token in (0, 2, 5, 10):  # Paris in two spellings, a letter, %
            html = client.get(f"/tokens/m/{token}", headers={"accept": "text/html"}).text
            for link, n in re.findall(r'href="/search\?([^"#]+)#features">all <[^>]*>([\d,]+)<', html):
                query = {**dict(parse_qsl(unescape(link))), "limit": "200"}
                page = client.get("/search.json", params=query).json()
                assert (page["n_features"], len(page["features"])) == (int(n), int(n)), (token, query)
                counted.append((token, query["relation"], int(n)))
    assert {token for token, _, _ in counted} == {0, 2, 5, 10}
    assert {relation for _, relation, _ in counted} == {"on", "after", "before", "near"}


def test_the_first_page_of_a_list_is_linked_where_a_cursor_is_of_another_build(browser: TestClient) -> None:
    answer = browser.get("/tiny/1-vasae?verdict=specific&limit=5&cursor=stale")
    assert answer.status_code == 400
    [link] = re.findall(r'href="(/tiny/1-vasae[^"]*)">The first page of this list', answer.text)
    assert unescape(link) == "/tiny/1-vasae?verdict=specific&limit=5"
    assert browser.get(unescape(link)).status_code == 200


@pytest.mark.parametrize(
    "address",
    [
        "/tiny/1-vasae/anchors?limit=3&start=3",
        "/search?q=word&limit=3&tokens_from=3&where=density+<+0",
    ],
)
def test_pages_of_tokens_are_turned_by_keys(browser: TestClient, address: str) -> None:
    links = dict(re.findall(r'rel="(next|prev)"\s+href="([^"]+)"', browser.get(address).text))
    assert set(links) == {"next", "prev"}
    for link in links.values():
        assert browser.get(unescape(link)).status_code == 200


def test_a_direction_of_a_number_that_no_token_has_is_not_found(browser: TestClient) -> None:
    for digits in ("9" * 20, "9" * 5000):
        assert browser.get(f"/tiny/1-vasae/token-{digits}").status_code == 404
