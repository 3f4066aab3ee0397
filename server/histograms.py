"""Figures derived from a record's histograms for the page: density by position, the shape in words."""

from itertools import pairwise
from typing import NamedTuple

from lexiscope.records import Moments, PositionHistogram

FAR = 1.0
"""absolute skewness or excess kurtosis from which it is mentioned; both are 0 for a normal distribution"""


class PositionBin(NamedTuple):
    """Positions `first` to `last` of the passages, as one bar."""

    first: int
    last: int
    firings: int
    positions: int
    density: float


def position_bins(data: PositionHistogram) -> list[PositionBin]:
    """The bins that contain any position of the text."""
    bins = zip(pairwise(data.edges), data.counts, data.totals, strict=True)
    return [
        PositionBin(start, end - 1, count, total, count / total)
        for (start, end), count, total in bins
        if total
    ]


def shape(moments: Moments) -> str:
    """The third and fourth moment of a distribution in words."""
    if moments.skewness > FAR:
        skew = "Mostly weak firings, with a tail of strong ones"
    elif moments.skewness < -FAR:
        skew = "Mostly strong firings, with a tail of weak ones"
    else:
        skew = "Spread about evenly around the mean"
    if abs(moments.kurtosis) <= FAR:
        return f"{skew}."
    return f"{skew}; extreme values are {'common' if moments.kurtosis > FAR else 'rare'}."
