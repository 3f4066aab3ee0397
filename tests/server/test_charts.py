"""Charts are drawn with the figures that their tables give, and their points lead to what is behind them."""

import json
import re

import pytest
from fastapi.testclient import TestClient

from lexiscope.records import Histogram
from server import charts
from server.drawings import numbers
from server.histograms import PositionBin


def figures(html: str) -> list[str]:
    return re.findall(r"<figure.*?</figure>", html, re.S)


@pytest.mark.parametrize("address", ["/", "/tiny/1-vasae", "/tiny/1-vasae/6"])
def test_every_chart_has_a_title_a_description_a_table_and_data(browser: TestClient, address: str) -> None:
    found = figures(browser.get(address).text)
    assert found
    for figure in found:
        label, words = re.search(r'aria-labelledby="(\S+)" aria-describedby="(\S+)"', figure).groups()
        assert re.search(rf'<title id="{label}">[^<]+</title><desc id="{words}">[^<]+</desc>', figure)
        assert "<table" in figure and figure.count("<tr>") > 1
        data = json.loads(re.search(r'<script type="application/json">(.*?)</script>', figure, re.S)[1])
        assert data["series"] and data["series"][0]["x"]
    names = re.findall(r'<title id="(\S+?)">', "".join(found))
    assert len(names) == len(set(names))


def test_a_point_by_layer_leads_to_its_dictionary(browser: TestClient) -> None:
    home = browser.get("/index.json").json()
    [figure] = [part for part in figures(browser.get("/").text) if 'data-chart="tiny-aligned_live"' in part]
    links = re.findall(r'<a href="(/[^"]+)" tabindex="-1" aria-label="([^"]+)"', figure)
    [model] = [model for model in home["models"] if model["model"] == "tiny"]
    assert sorted(links) == sorted(
        (f"/tiny/{one['source']}", f"{one['source']}: {one['aligned_live'] * 100:.1f} %")
        for one in model["layers"]
    )


def test_a_bar_leads_to_the_list_of_the_features_that_it_counts(browser: TestClient) -> None:
    html = browser.get("/tiny/1-vasae").text
    [figure] = [part for part in figures(html) if 'data-chart="densities"' in part]
    links = re.findall(r'<a href="([^"]+)#features" tabindex="-1" aria-label="(\S+) to (\S+):', figure)
    assert links
    for link, low, high in links:
        path, _, query = link.replace("&amp;", "&").partition("?")
        filters = browser.get(f"{path}.json?{query}").json()["filters"]
        assert filters["min_density"] == pytest.approx(float(low), rel=0.01)
        assert filters["max_density"] == pytest.approx(float(high), rel=0.01)


def test_a_level_and_a_gap_are_drawn() -> None:
    bins = [PositionBin(1, 1, 3, 10, 0.3), PositionBin(2, 3, 0, 20, 0.0)]
    chart = charts.positions(bins, 0.1)
    assert 'class="level"' in chart.svg and chart.svg.count("<rect") == 1, "an empty bin has no bar"
    assert [cell.text for cell in chart.rows[0]] == ["1", "3", "10", "30 %"]


def test_logarithmic_bins_are_marked_by_decades() -> None:
    chart = charts.activations(Histogram(edges=[0.01, 0.1, 1.0, 10.0], counts=[1, 2, 3], zeros=0))
    assert [text for _, text in chart.x.ticks] == ["10⁻²", "10⁻¹", "10⁰", "10¹"]
    assert chart.y.high >= 3 and chart.description == "Firings in 3 bins: 6 in all."


@pytest.mark.parametrize("values", [[0.0], [3.0, 3.0], [-0.4, 0.9], [1e-7, 2e-7], [5, 49_152], []])
def test_an_axis_has_round_marks_and_holds_its_values(values: list[float]) -> None:
    axis = numbers("", values)
    assert axis.low <= min(values, default=0) and max(values, default=0) <= axis.high
    assert 2 <= len(axis.ticks) <= 8


def test_what_a_chart_says_is_escaped() -> None:
    chart = charts.cosines(Histogram(edges=[0, 1], counts=[1], zeros=0), '/m/"><script>')
    assert "<script" not in chart.svg and "<" not in chart.data
