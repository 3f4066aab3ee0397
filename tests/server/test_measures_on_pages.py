"""Every measure is on its page, with its value and its definition."""

import re
from html import unescape

import pytest
from fastapi.testclient import TestClient

from lexiscope.measures import DICTIONARY, FEATURE, placed

FEATURE_PAGE, DICTIONARY_PAGE = "/tiny/1-vasae/6", "/tiny/1-vasae"


def html_of(browser: TestClient, address: str) -> str:
    """A page without the white space at the edges of its elements."""
    return re.sub(r"(?<=>)\s+|\s+(?=<)", "", browser.get(address).text)


def rows(html: str) -> dict[str, str]:
    """{label: the rest of its table row} of the feature page's evidence."""
    found = re.findall(r'<tr><th scope="row">([^<]*)<small>(.*?)</small></th>(.*?)</tr>', html, re.S)
    return {unescape(label): unescape(meaning) + rest for label, meaning, rest in found}


@pytest.mark.parametrize("place", ["evidence", "ablation", "scores"])
def test_a_tested_measure_is_a_row_with_its_definition_and_two_values(
    browser: TestClient, place: str
) -> None:
    shown = rows(html_of(browser, FEATURE_PAGE))
    for measure in placed(FEATURE, place):
        assert measure.meaning in shown[measure.label]
        assert len(re.findall(r"<data value=", shown[measure.label])) == (2 if measure.chance else 1)


def test_tiles_have_a_label_that_explains_itself_and_a_value(browser: TestClient) -> None:
    for address, measures in (
        (FEATURE_PAGE, placed(FEATURE, "activity")),
        (
            DICTIONARY_PAGE,
            [m for m in placed(DICTIONARY, "tiles") if not m.name.endswith(("dense_share", "lookup_share"))],
        ),
    ):
        found = re.findall(
            r'<dt><abbr title="(.*?)">(.*?)</abbr></dt><dd><data value', html_of(browser, address)
        )
        assert {(m.sentence, m.label) for m in measures} <= {(unescape(a), unescape(b)) for a, b in found}


def test_a_measure_that_is_absent_has_no_tile(browser: TestClient) -> None:
    html = html_of(browser, DICTIONARY_PAGE)
    assert f'">{DICTIONARY["dense_share"].label}</abbr></dt>' not in html


def test_the_home_table_has_a_column_a_measure_and_a_glossary_of_the_same_words(browser: TestClient) -> None:
    html = unescape(html_of(browser, "/"))
    for measure in placed(DICTIONARY, "table"):
        assert (
            f'<th scope="col" class="num"><abbr title="{measure.sentence}">{measure.label}</abbr></th>'
            in html
        )
        assert re.search(
            rf"<dt>{re.escape(measure.label)}</dt>\s*<dd>{re.escape(measure.sentence)}</dd>", html
        )
