"""Plotly figures, as JSON, of numbers that are in the page's record and on the page without them."""

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import plotly.graph_objects as go

from lexiscope.measures import DICTIONARY, Measure, placed
from lexiscope.records import Histogram, LayerSummary

RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
"""Plotly's own <sup> would be smaller than the 14 px that text has at least."""
PANELS = placed(DICTIONARY, "plot")
"""measures of LayerSummary, a plot each"""
COLOURS = ("#2f6fde", "#d9730d", "#2a9d5c", "#a855c7", "#8a8f98", "#c2417a", "#0e9aa7", "#a58200")
"""readable on light and on dark; who cannot tell two apart has the marks"""
SHAPES = (
    ("circle", "solid", "●"),
    ("square", "dash", "■"),
    ("diamond", "dot", "◆"),
    ("triangle-up", "dashdot", "▲"),
    ("cross", "longdash", "✚"),
    ("star", "solid", "★"),
    ("triangle-down", "dash", "▼"),
)


class Mark(NamedTuple):
    """How one set of dictionaries (a recipe, a seed, somebody else's) is drawn in every panel."""

    label: str
    origin: str
    colour: str
    symbol: str
    dash: str
    glyph: str
    """the symbol as a character, for the legend"""


class _Point(NamedTuple):
    layer: int
    value: float | None
    source: str


def set_of(entry: LayerSummary) -> str:
    """The set of `<layer>-<set>`."""
    return entry.source.partition("-")[2]


def marks(layers: Sequence[LayerSummary]) -> list[Mark]:
    """One a set, this house's first."""
    sets = sorted({(entry.origin != "lexiscope", set_of(entry), entry.origin) for entry in layers})
    return [
        Mark(name, origin, COLOURS[place % len(COLOURS)], *SHAPES[place % len(SHAPES)])
        for place, (_, name, origin) in enumerate(sets)
    ]


def panels(layers: Sequence[LayerSummary]) -> dict[str, str]:
    """Name of a measure of PANELS → its plot by layer, a line a set; none where there is one layer, or where nothing was
    measured.
    """
    if len({entry.layer for entry in layers}) < 2:
        return {}
    found = {}
    for measure in PANELS:
        lines = []
        for mark in marks(layers):
            own = sorted(
                (e for e in layers if (set_of(e), e.origin) == (mark.label, mark.origin)),
                key=lambda entry: entry.layer,
            )
            points = tuple(_Point(entry.layer, getattr(entry, measure.name), entry.source) for entry in own)
            if any(point.value is not None for point in points):
                lines.append((mark, points))
        if lines:
            found[measure.name] = _panel(measure, tuple(lines))
    return found


@lru_cache(maxsize=256)
def _panel(measure: Measure, lines: tuple[tuple[Mark, tuple[_Point, ...]], ...]) -> str:
    share = measure.unit == "share"
    figure = go.Figure()
    for mark, points in lines:
        figure.add_trace(
            go.Scatter(
                x=[point.layer for point in points],
                y=[point.value for point in points],
                customdata=[point.source for point in points],
                name=mark.label,
                mode="lines+markers",
                line={"color": mark.colour, "dash": mark.dash},
                marker={"symbol": mark.symbol, "size": 9},
                hovertemplate="%{customdata}: %{y" + (":.1%" if share else ":.3f") + "}<extra></extra>",
            )
        )
    _dress(figure)
    layers = {point.layer for _, points in lines for point in points}
    figure.update_layout(showlegend=False, margin={"l": 56, "r": 16, "t": 8, "b": 28})
    figure.update_xaxes(tickvals=sorted(layers) if len(layers) <= 8 else None)
    if share:
        figure.update_yaxes(range=[-0.02, 1.04], tickformat=".0%")
    else:
        figure.update_yaxes(rangemode="tozero")
    return str(figure.to_json())


def cosines(data: Histogram) -> str:
    """Live features by cosine to the nearest anchor."""
    return _bars(
        tuple(data.edges), tuple(data.counts), "cosine to the nearest anchor", "live features", False
    )


def densities(data: Histogram) -> str:
    """Features by the share of tokens they fire on, on a logarithmic axis."""
    return _bars(tuple(data.edges), tuple(data.counts), "share of tokens it fires on", "features", True)


@lru_cache(maxsize=256)
def _bars(edges: tuple[float, ...], counts: tuple[int, ...], x: str, y: str, logarithmic: bool) -> str:
    labels = [f"{a:.3g} to {b:.3g}" for a, b in pairwise(edges)]
    at = [math.log10(edge) for edge in edges] if logarithmic else list(edges)
    figure = go.Figure(
        go.Bar(
            x=[(a + b) / 2 for a, b in pairwise(at)],
            y=list(counts),
            width=[b - a for a, b in pairwise(at)],
            customdata=labels,
            marker={"color": COLOURS[0]},
            hovertemplate="%{customdata}: %{y:,}<extra></extra>",
        )
    )
    _dress(figure, x=x, y=y)
    if logarithmic:  # decades on a linear axis of exponents: on plotly's own log axis bars have no width
        decades = range(math.ceil(at[0]), math.floor(at[-1]) + 1)
        figure.update_xaxes(
            tickvals=list(decades), ticktext=[f"10{str(d).translate(RAISED)}" for d in decades]
        )
    return str(figure.to_json())


def _dress(figure: Any, *, x: str | None = None, y: str | None = None) -> None:
    """The house's look; the page's script sets the font's colour to the theme's."""
    clear = "rgba(0,0,0,0)"
    figure.update_layout(
        template="none",
        paper_bgcolor=clear,
        plot_bgcolor=clear,
        font={"size": 14},
        margin={"l": 56, "r": 16, "t": 16, "b": 48},
        bargap=0.05,
        xaxis_title=x,
        yaxis_title=y,
        legend={"orientation": "h", "y": -0.2},
    )
    figure.update_xaxes(gridcolor="rgba(128,128,128,0.25)", zeroline=False)
    figure.update_yaxes(gridcolor="rgba(128,128,128,0.25)", zeroline=False)
