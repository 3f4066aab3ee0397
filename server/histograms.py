"""What a histogram of a record says in words and bars: densities by position, quartiles read off the bins."""

from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

from lexiscope.records import Histogram, Moments, PositionHistogram

FAR = 1.0
"""skewness and excess kurtosis beyond this are worth a word; 0 for a normal distribution"""


class PositionBin(NamedTuple):
    """Positions `first` to `last` of the passages, as one bar."""

    first: int
    last: int
    firings: int
    positions: int
    density: float


class Quartiles(NamedTuple):
    """The values below which a quarter, half and three quarters lie; interpolated within a bin."""

    low: float
    median: float
    high: float


def position_bins(data: PositionHistogram) -> list[PositionBin]:
    """The bins that any position of the text falls into."""
    bins = zip(pairwise(data.edges), data.counts, data.totals, strict=True)
    return [
        PositionBin(start, end - 1, count, total, count / total)
        for (start, end), count, total in bins
        if total
    ]


def quartiles(data: Histogram) -> Quartiles | None:
    """Of what the bins hold, zeros left out; None where they hold nothing."""
    if not sum(data.counts):
        return None
    at = _quantile(data.edges, data.counts)
    return Quartiles(at(0.25), at(0.5), at(0.75))


def shape(moments: Moments) -> str:
    """A distribution's third and fourth moment in words."""
    if moments.skewness > FAR:
        leans = "Mostly weak firings, with a tail of strong ones"
    elif moments.skewness < -FAR:
        leans = "Mostly strong firings, with a tail of weak ones"
    else:
        leans = "Spread about evenly around the mean"
    tails = (
        "; extreme values are " + ("common" if moments.kurtosis > FAR else "rare")
        if abs(moments.kurtosis) > FAR
        else ""
    )
    return f"{leans}{tails}."


def _quantile(edges: Sequence[float], counts: Sequence[int]) -> Callable[[float], float]:
    reached = [0, *accumulate(counts)]

    def at(share: float) -> float:
        wanted = share * reached[-1]
        place = next(i for i, total in enumerate(reached[1:]) if total >= wanted and counts[i])
        inside = (wanted - reached[place]) / counts[place]
        return edges[place] + inside * (edges[place + 1] - edges[place])

    return at
