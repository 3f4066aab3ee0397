"""The charts of the pages, each with its figures as a table."""

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple
from urllib.parse import urlencode

from lexiscope.measures import DICTIONARY, TRAINING, Measure, as_text, placed
from lexiscope.records import Histogram, LayerSummary, set_of
from lexiscope.records.made import TrainingCurve
from server.drawings import Axis, Cell, Chart, Point, Series, marker, numbers, shares
from server.histograms import PositionBin

__all__ = [
    "activations",
    "cosines",
    "curve",
    "densities",
    "marker",
    "matches",
    "panels",
    "positions",
    "set_styles",
]

RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
"""superscript characters, which are not smaller than the minimum of 14 px"""
LinkOfBin = Callable[[float, float], str]
"""The address of what a bin holds, from its edges."""


class SetStyle(NamedTuple):
    """One set of dictionaries (a recipe, a seed, an import), and the number of its colour and marker in every
    chart.
    """

    label: str
    origin: str
    style: int


def set_styles(layers: Iterable[LayerSummary]) -> list[SetStyle]:
    """One for each set, Lexiscope's own first."""
    sets = sorted({(entry.origin != "lexiscope", set_of(entry.source), entry.origin) for entry in layers})
    return [SetStyle(name, origin, place) for place, (_, name, origin) in enumerate(sets)]


def panels(layers: Sequence[LayerSummary], place: Literal["plot", "alignment"] = "plot") -> dict[str, Chart]:
    """{name of a measure of LayerSummary at that place: its chart by layer, one line for each set}. Empty if
    there is only one layer; measures without any value are left out.
    """
    if len({entry.layer for entry in layers}) < 2:
        return {}
    drawn = {measure.name: _panel(measure, tuple(layers)) for measure in placed(DICTIONARY, place)}
    return {name: chart for name, chart in drawn.items() if chart is not None}


def _panel(measure: Measure, layers: Sequence[LayerSummary]) -> Chart | None:
    values = [value for entry in layers if (value := getattr(entry, measure.name)) is not None]
    if not values:
        return None
    series = []
    for style in set_styles(layers):
        own = [e for e in layers if (set_of(e.source), e.origin) == (style.label, style.origin)]
        points = tuple(
            Point(
                entry.layer,
                getattr(entry, measure.name),
                f"{entry.source}: {as_text(measure, getattr(entry, measure.name))}",
                f"/{entry.model}/{entry.source}",
            )
            for entry in sorted(own, key=lambda entry: entry.layer)
        )
        series.append(Series(style.label, style.style, points))
    every = sorted({entry.layer for entry in layers})
    marked = every if len(every) <= 8 else every[:: math.ceil(len(every) / 8)]
    by_place = {(one.label, int(point.x)): point for one in series for point in one.points}
    rows = tuple(
        (
            Cell(str(layer)),
            *(
                Cell(as_text(measure, point.y), point.href) if point else Cell("–")
                for one in series
                for point in (by_place.get((one.label, layer)),)
            ),
        )
        for layer in every
    )
    bounds = shares() if measure.unit == "share" and min(values) >= 0 else numbers("", values)
    return Chart(
        name=f"{layers[0].model}-{measure.name}",
        title=f"{measure.label} by layer",
        description=f"{measure.sentence} One line for each set of dictionaries.",
        kind="lines",
        x=Axis("layer", every[0], every[-1], tuple((layer, str(layer)) for layer in marked)),
        y=bounds,
        series=tuple(series),
        heads=("Layer", *(one.label for one in series)),
        rows=rows,
    )


def cosines(data: Histogram, path: str) -> Chart:
    """Live features by cosine to the nearest anchor. A bar leads to the features from its cosine up, in the
    list of the dictionary at `path`.
    """

    def link(low: float, high: float) -> str:
        query = {"min_cosine": f"{low:.4g}", "live": "true", "sort": "cosine", "descending": "false"}
        return f"{path}?{urlencode(query)}#features"

    return _histogram("cosines", "Live features by cosine to the nearest anchor", "features", data, link)


def matches(data: Histogram) -> Chart:
    """Features by their largest cosine to any feature of another dictionary."""
    title = "Features by the cosine of their nearest counterpart"
    return _histogram("matches", title, "features", data, lambda low, high: "")


def curve(drawn: TrainingCurve) -> Chart:
    """One measure of a run over the tokens that it was trained on."""
    measure = TRAINING.get(drawn.name)

    def text(value: float) -> str:
        return as_text(measure, value) if measure and measure.unit == "share" else f"{value:,.4g}"

    pairs = list(zip(drawn.tokens, drawn.values, strict=True))
    points = tuple(Point(at, value, f"{at:,} tokens: {text(value)}") for at, value in pairs)
    every = math.ceil(len(pairs) / 20)
    return Chart(
        name=drawn.name,
        title=f"{drawn.label} by training tokens",
        description=f"{len(pairs)} points, from {text(drawn.values[0])} to {text(drawn.values[-1])}.",
        kind="lines",
        x=numbers("training tokens", drawn.tokens),
        y=shares() if drawn.unit == "share" else numbers("", drawn.values),
        series=(Series(drawn.label, 0, points),),
        heads=("Tokens", drawn.label.capitalize()),
        rows=tuple((Cell(f"{at:,}"), Cell(text(value))) for at, value in pairs[::every]),
    )


def densities(data: Histogram, path: str) -> Chart:
    """Features by the share of tokens they fire on, on a logarithmic axis. A bar leads to its features."""

    def link(low: float, high: float) -> str:
        query = {"min_density": f"{low:.6g}", "max_density": f"{high:.6g}", "sort": "density"}
        return f"{path}?{urlencode(query)}#features"

    title = "Features by the share of tokens they fire on"
    return _histogram("densities", title, "features", data, link, logarithmic=True)


def activations(data: Histogram) -> Chart:
    """A feature's firings by activation, on a logarithmic axis."""
    return _histogram(
        "activations", "Firings by activation", "firings", data, lambda low, high: "", logarithmic=True
    )


def positions(bins: Sequence[PositionBin], density: float) -> Chart:
    """Share of positions at which a feature fires, by position in the passage; `density` is that of the
    whole text.
    """
    points, rows = [], []
    for place, one in enumerate(bins):
        named = f"{one.first} to {one.last}" if one.last > one.first else str(one.first)
        words = (
            f"positions {one.first} to {one.last}: fires on {one.firings:,} of {one.positions:,}, "
            f"{one.density * 100:.3g} %"
        )
        points.append(Point(place + 0.5, one.density, words, width=1))
        cells = (named, f"{one.firings:,}", f"{one.positions:,}", f"{one.density * 100:.3g} %")
        rows.append(tuple(Cell(text) for text in cells))
    plain = numbers("", [100 * one.density for one in bins])
    y = Axis("", plain.low / 100, plain.high / 100, tuple((v / 100, f"{text} %") for v, text in plain.ticks))
    every = math.ceil(len(bins) / 5)
    ticks = tuple((place + 0.5, str(one.first)) for place, one in enumerate(bins) if place % every == 0)
    return Chart(
        name="positions",
        title="Share of positions at which it fires, by position in the passage",
        description="The dashed line is the share over the whole text.",
        kind="bars",
        x=Axis("position in the passage", 0, len(bins), ticks),
        y=y,
        series=(Series("share", 0, tuple(points)),),
        heads=("Positions", "Firings", "Positions of the text", "Share"),
        rows=tuple(rows),
        level=density,
    )


def _histogram(
    name: str,
    title: str,
    what: str,
    data: Histogram,
    link: LinkOfBin,
    *,
    logarithmic: bool = False,
) -> Chart:
    at = [math.log10(edge) for edge in data.edges] if logarithmic else list(data.edges)
    points, rows = [], []
    for (low, high), (left, right), count in zip(
        pairwise(data.edges), pairwise(at), data.counts, strict=True
    ):
        bin_ = f"{low:.3g} to {high:.3g}"
        points.append(Point((left + right) / 2, count, f"{bin_}: {count:,}", link(low, high), right - left))
        rows.append((Cell(bin_, link(low, high)), Cell(f"{count:,}")))
    if logarithmic:
        decades = range(math.ceil(at[0] - 1e-9), math.floor(at[-1] + 1e-9) + 1)
        ticks = tuple((float(decade), f"10{str(decade).translate(RAISED)}") for decade in decades)
    else:
        ticks = tuple(
            (tick, text) for tick, text in numbers("", at, from_zero=False).ticks if at[0] <= tick <= at[-1]
        )
    return Chart(
        name=name,
        title=title,
        description=f"{what.capitalize()} in {len(data.counts)} bins: {sum(data.counts):,} in all.",
        kind="bars",
        x=Axis("", at[0], at[-1], ticks),
        y=numbers(what, data.counts),
        series=(Series(what, 0, tuple(points)),),
        heads=("From, to", what.capitalize()),
        rows=tuple(rows),
    )
