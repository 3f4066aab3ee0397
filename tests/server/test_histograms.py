"""Figures and descriptions derived from histograms."""

import pytest

from lexiscope.records import Moments, PositionHistogram
from server.histograms import position_bins, shape


def test_density_by_position_is_firings_over_positions_and_empty_bins_are_left_out() -> None:
    bins = position_bins(PositionHistogram(edges=[1, 2, 4, 8], counts=[1, 3, 0], totals=[4, 6, 0]))
    assert [(b.first, b.last, b.density) for b in bins] == [(1, 1, 0.25), (2, 3, 0.5)]


@pytest.mark.parametrize(
    ("skewness", "words"), [(2.0, "a tail of strong"), (-2.0, "a tail of weak"), (0.3, "evenly")]
)
def test_skewness_is_described_in_words(skewness: float, words: str) -> None:
    assert words in shape(Moments(mean=1, std=1, skewness=skewness, kurtosis=0.0))
    assert "extreme" not in shape(Moments(mean=1, std=1, skewness=skewness, kurtosis=0.0))
    assert "extreme values are common" in shape(Moments(mean=1, std=1, skewness=skewness, kurtosis=5.0))
