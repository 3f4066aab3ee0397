"""`/about` defines every measure once, in words, with its chance level; `/docs` lists what it has."""

import re
from html import unescape

from fastapi.testclient import TestClient

from lexiscope.measures import DERIVED, DICTIONARY, FEATURE, RUN, TRAINING
from lexiscope.records import RELATION_WORDS, VERDICT_WORDS


def test_every_measure_is_defined_once_with_its_unit_and_chance(browser: TestClient) -> None:
    record, html = browser.get("/about.json").json(), unescape(browser.get("/about").text)
    defined = [measure for group in record["groups"] for measure in group["measures"]]
    every = {id(m): m for table in (FEATURE, DICTIONARY, DERIVED, RUN, TRAINING) for m in table.values()}
    assert len(defined) == len(every)
    shown = {(one["name"], one["meaning"], one["unit"]) for one in defined}
    assert shown == {(m.name, m.meaning, m.unit) for m in every.values()}
    for one in defined:
        assert one["label"] in html and one["meaning"][1:] in html
    assert "reads_null" in html and "frequency-matched random tokens" in html


def test_what_a_name_is_and_is_not_stands_before_the_measures(browser: TestClient) -> None:
    html = unescape(browser.get("/about").text)
    assert html.index("A name is not") < html.index('id="measures"')
    assert all(words[1:] in html for words in (*RELATION_WORDS.values(), *VERDICT_WORDS.values()))
    assert '<a href="/about">About</a>' in browser.get("/").text


def test_the_api_reference_has_a_list_of_contents_whose_links_lead_somewhere(browser: TestClient) -> None:
    html = browser.get("/docs").text
    links, places = re.findall(r'href="#([^"]+)"', html), set(re.findall(r'id="([^"]+)"', html))
    paths = browser.get("/openapi.json").json()["paths"]
    assert set(links) <= places
    own = [path for path in paths if not path.endswith(".json")]
    assert len(set(links)) > sum(len(paths[path]) for path in own)
    twins = {"/search.json", "/{model}/{source}.json"}
    assert all(
        f"and <code>GET {'<wbr>/'.join(twin.split('/'))}</code>" in re.sub(r"\s+", " ", html)
        for twin in twins
    )
    assert html.count("min_cosine</code>") < sum("min_cosine" in str(paths[path]) for path in paths)
    assert "`" not in re.sub(r"<code[^>]*>.*?</code>", "", html)
