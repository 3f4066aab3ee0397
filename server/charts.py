"""Plotly figures as JSON. Their numbers are in the page's record, and on the page without scripts."""

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import plotly.graph_objects as go

from lexiscope.measures import DICTIONARY, Measure, placed
from lexiscope.records import Histogram, LayerSummary, set_of

RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
"""superscript characters; Plotly's <sup> would be smaller than the minimum of 14 px"""
PANELS = placed(DICTIONARY, "plot")
"""measures of LayerSummary, one plot each"""
COLOURS = ("#2f6fde", "#d9730d", "#2a9d5c", "#a855c7", "#8a8f98", "#c2417a", "#0e9aa7", "#a58200")
"""readable on light and dark backgrounds; symbols and dashes differ too"""
SHAPES = (
    ("circle", "solid", "●"),
    ("square", "dash", "■"),
    ("diamond", "dot", "◆"),
    ("triangle-up", "dashdot", "▲"),
    ("cross", "longdash", "✚"),
    ("star", "solid", "★"),
    ("triangle-down", "dash", "▼"),
)


class SetStyle(NamedTuple):
    """How one set of dictionaries (a recipe, a seed, an import) is drawn in every plot."""

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


def set_styles(layers: Sequence[LayerSummary]) -> list[SetStyle]:
    """One for each set, Lexiscope's own first."""
    sets = sorted({(entry.origin != "lexiscope", set_of(entry.source), entry.origin) for entry in layers})
    return [
        SetStyle(name, origin, COLOURS[place % len(COLOURS)], *SHAPES[place % len(SHAPES)])
        for place, (_, name, origin) in enumerate(sets)
    ]


def panels(layers: Sequence[LayerSummary]) -> dict[str, str]:
    """{name of a measure in PANELS: its plot by layer, one line for each set}. Empty if there is only one
    layer; measures without any value are left out.
    """
    if len({entry.layer for entry in layers}) < 2:
        return {}
    figures = {}
    for measure in PANELS:
        lines = []
        for style in set_styles(layers):
            own = sorted(
                (e for e in layers if (set_of(e.source), e.origin) == (style.label, style.origin)),
                key=lambda entry: entry.layer,
            )
            points = tuple(_Point(entry.layer, getattr(entry, measure.name), entry.source) for entry in own)
            if any(point.value is not None for point in points):
                lines.append((style, points))
        if lines:
            figures[measure.name] = _panel(measure, tuple(lines))
    return figures


@lru_cache(maxsize=256)
def _panel(measure: Measure, lines: tuple[tuple[SetStyle, tuple[_Point, ...]], ...]) -> str:
    share = measure.unit == "share"
    figure = go.Figure()
    for style, points in lines:
        figure.add_trace(
            go.Scatter(
                x=[point.layer for point in points],
                y=[point.value for point in points],
                customdata=[point.source for point in points],
                name=style.label,
                mode="lines+markers",
                line={"color": style.colour, "dash": style.dash},
                marker={"symbol": style.symbol, "size": 9},
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
    if logarithmic:  # a linear axis of exponents, because bars have no width on Plotly's log axis
        decades = range(math.ceil(at[0]), math.floor(at[-1]) + 1)
        figure.update_xaxes(
            tickvals=list(decades), ticktext=[f"10{str(d).translate(RAISED)}" for d in decades]
        )
    return str(figure.to_json())


def _dress(figure: Any, *, x: str | None = None, y: str | None = None) -> None:
    """The common layout. The page's script sets the colours of the theme."""
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
