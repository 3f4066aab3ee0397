"""Every measure is on its page, with its value and its definition."""

import re
from html import unescape

import pyarrow as pa
import pytest
from fastapi.testclient import TestClient

from lexiscope.measures import DICTIONARY, FEATURE, Measure, placed
from tests.store import synthetic

FEATURE_PAGE, DICTIONARY_PAGE = "/tiny/1-vasae/6", "/tiny/1-vasae"
SHOWN = {
    entry.source: {"d_sae": entry.d_sae, **synthetic.summary_values(place, entry)}
    for place, entry in enumerate(synthetic.USUAL)
    if entry.model == "tiny"
}
"""{dictionary: {measure: value}}"""


def feature_values() -> dict[str, float]:
    """{column of the index: value} of the feature on FEATURE_PAGE."""
    table: pa.Table = synthetic.feature_table(1, synthetic.USUAL[1], seed=1, links=(True, True))
    return table.slice(6, 1).to_pylist()[0]


def html_of(browser: TestClient, address: str) -> str:
    """A page without the white space at the edges of its elements."""
    return re.sub(r"(?<=>)\s+|\s+(?=<)", "", browser.get(address).text)


def rows(html: str) -> dict[str, str]:
    """{label: the rest of its table row} of the feature page's evidence."""
    found = re.findall(r'<tr><th scope="row">([^<]*)<small>(.*?)</small></th>(.*?)</tr>', html, re.S)
    return {unescape(label): unescape(meaning) + rest for label, meaning, rest in found}


def numbers(html: str) -> list[float]:
    return [float(value) for value in re.findall(r'<data value="([^"]*)"', html)]


def cells(html: str) -> list[float | None]:
    """The first number of each cell of a table row, None where a cell has none."""
    return [(numbers(cell) or [None])[0] for cell in re.findall(r'<td class="num[^"]*">(.*?)</td>', html)]


def labelled(measures: list[Measure], values: dict[str, float | None]) -> dict[str, object]:
    """{label: its value, but for rounding in float32} of the measures that have one."""
    return {
        measure.label: pytest.approx(values[measure.name], rel=1e-6)
        for measure in measures
        if values[measure.name] is not None
    }


@pytest.mark.parametrize("place", ["evidence", "ablation", "scores"])
def test_a_tested_measure_is_a_row_with_its_definition_and_its_own_two_values(
    browser: TestClient, place: str
) -> None:
    shown, values = rows(html_of(browser, FEATURE_PAGE)), feature_values()
    for measure in placed(FEATURE, place):
        assert measure.meaning in shown[measure.label]
        expected = [values[name] for name in (measure.name, measure.chance) if name]
        assert numbers(shown[measure.label]) == pytest.approx(expected, rel=1e-6), measure.name


def test_a_tile_has_a_label_that_explains_itself_and_its_own_value(browser: TestClient) -> None:
    for address, measures, values in (
        (FEATURE_PAGE, placed(FEATURE, "activity"), feature_values()),
        (DICTIONARY_PAGE, placed(DICTIONARY, "tiles"), SHOWN["1-vasae"]),
    ):
        found = re.findall(
            r'<dt><abbr title="([^"]*)">([^<]*)</abbr></dt><dd><data value="([^"]*)"',
            html_of(browser, address),
        )
        assert {unescape(label): float(value) for _, label, value in found} == labelled(measures, values)
        known = {(m.sentence, m.label) for m in measures if values[m.name] is not None}
        assert known == {(unescape(sentence), unescape(label)) for sentence, label, _ in found}


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


def test_the_home_table_has_each_dictionarys_own_values_under_their_labels(browser: TestClient) -> None:
    html = html_of(browser, "/")
    table = html[html.index('aria-label="Dictionaries of tiny"') :]
    labels = re.findall(r'<th scope="col" class="num"><abbr title="[^"]*">([^<]*)</abbr></th>', table)
    found = re.findall(r'<th scope="row"><a href="/tiny/([^"]*)">[^<]*</a></th>(.*?)</tr>', table)
    assert {source for source, _ in found} == set(SHOWN)
    measures = placed(DICTIONARY, "table")
    own = labels[: len(measures)]
    for source, row in found:
        values = dict(zip(map(unescape, own), cells(row), strict=True))
        assert values == labelled(measures, SHOWN[source]), source


def test_compare_has_the_values_of_either_side_under_its_name(browser: TestClient) -> None:
    html = html_of(browser, "/compare?model=tiny&left=0-vasae&right=1-plain")
    table = html[html.index('aria-label="Table of figures"') :].partition("</table>")[0]
    sides = re.findall(r'<th scope="col" class="num"><a href="/tiny/([^"]*)">', table)
    assert sides == ["0-vasae", "1-plain"]
    found = re.findall(r'<tr><th scope="row"><abbr title="[^"]*">([^<]*)</abbr></th>(.*?)</tr>', table)
    for place, source in enumerate(sides):
        values = {unescape(label): cells(row)[place] for label, row in found}
        assert values == labelled(placed(DICTIONARY, "tiles"), SHOWN[source]), source
