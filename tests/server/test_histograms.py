"""Figures and descriptions derived from histograms."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lexiscope.records import Histogram, Moments, PositionHistogram
from server.histograms import position_bins, quartiles, shape


def test_density_by_position_is_firings_over_positions_and_empty_bins_are_left_out() -> None:
    bins = position_bins(PositionHistogram(edges=[1, 2, 4, 8], counts=[1, 3, 0], totals=[4, 6, 0]))
    assert [(b.first, b.last, b.density) for b in bins] == [(1, 1, 0.25), (2, 3, 0.5)]


@given(st.lists(st.integers(0, 30), min_size=1, max_size=12).filter(any))
def test_quartiles_are_those_of_values_spread_over_their_bins(counts: list[int]) -> None:
    edges = [float(i) for i in range(len(counts) + 1)]
    spread = [i + (j + 0.5) / n for i, n in enumerate(counts) for j in range(n)]
    found = quartiles(Histogram(edges=edges, counts=counts, zeros=9))
    assert found is not None and found.low <= found.median <= found.high
    for value, share in zip(found, (0.25, 0.5, 0.75), strict=True):
        below = sum(v < value for v in spread)
        assert abs(below - share * len(spread)) <= 1


def test_an_empty_histogram_has_no_quartiles() -> None:
    assert quartiles(Histogram(edges=[0, 1], counts=[0], zeros=5)) is None


@pytest.mark.parametrize(
    ("skewness", "words"), [(2.0, "a tail of strong"), (-2.0, "a tail of weak"), (0.3, "evenly")]
)
def test_skewness_is_described_in_words(skewness: float, words: str) -> None:
    assert words in shape(Moments(mean=1, std=1, skewness=skewness, kurtosis=0.0))
    assert "extreme" not in shape(Moments(mean=1, std=1, skewness=skewness, kurtosis=0.0))
    assert "extreme values are common" in shape(Moments(mean=1, std=1, skewness=skewness, kurtosis=5.0))
