"""Figures derived from a record's histograms for the page: density by position, quartiles, the shape in
words.
"""

from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

from lexiscope.records import Histogram, Moments, PositionHistogram

FAR = 1.0
"""absolute skewness or excess kurtosis from which it is mentioned; both are 0 for a normal distribution"""


class PositionBin(NamedTuple):
    """Positions `first` to `last` of the passages, as one bar."""

    first: int
    last: int
    firings: int
    positions: int
    density: float


class Quartiles(NamedTuple):
    """The values below which a quarter, half and three quarters of the values lie, interpolated within
    bins.
    """

    low: float
    median: float
    high: float


def position_bins(data: PositionHistogram) -> list[PositionBin]:
    """The bins that contain any position of the text."""
    bins = zip(pairwise(data.edges), data.counts, data.totals, strict=True)
    return [
        PositionBin(start, end - 1, count, total, count / total)
        for (start, end), count, total in bins
        if total
    ]


def quartiles(data: Histogram) -> Quartiles | None:
    """Quartiles of the values in the bins, zeros left out. None if the bins are empty."""
    if not sum(data.counts):
        return None
    at = _quantile(data.edges, data.counts)
    return Quartiles(at(0.25), at(0.5), at(0.75))


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


def _quantile(edges: Sequence[float], counts: Sequence[int]) -> Callable[[float], float]:
    """Maps a share to the value below which that share of the counted values lies."""
    totals = [0, *accumulate(counts)]

    def quantile(share: float) -> float:
        rank = share * totals[-1]
        place = next(i for i, total in enumerate(totals[1:]) if total >= rank and counts[i])
        inside = (rank - totals[place]) / counts[place]
        return edges[place] + inside * (edges[place + 1] - edges[place])

    return quantile
