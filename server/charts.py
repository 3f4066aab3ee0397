"""Plotly figures, as JSON, of numbers that are in the page's record and on the page without them."""

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import plotly.graph_objects as go

from lexiscope.records import Histogram, LayerSummary

RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
"""Plotly's own <sup> would be smaller than the 14 px that text has at least."""
SHARES = {
    "aligned_all": "aligned, all features",
    "aligned_live": "aligned, live features",
    "aligned_firing": "aligned, firings",
    "supported_live": "supported names",
}
COLOURS = ("#8a8f98", "#2f6fde", "#d9730d", "#2a9d5c")
"""one a share; distinguishable without red against green, readable on light and dark"""
DASHES = ("solid", "dot", "dash", "dashdot")
"""one a recipe"""


class _Line(NamedTuple):
    recipe: str
    share: str
    layers: tuple[int, ...]
    values: tuple[float, ...]
    sources: tuple[str, ...]


def alignment(layers: Sequence[LayerSummary]) -> str:
    """Shares by layer, a line a share and recipe: the paper's headline beside what it hides."""
    lines = []
    for recipe in dict.fromkeys(entry.recipe for entry in layers):
        own = sorted((entry for entry in layers if entry.recipe == recipe), key=lambda entry: (entry.layer, entry.source))
        for share in SHARES:
            values = tuple(float(getattr(entry, share)) for entry in own)
            lines.append(_Line(recipe, share, tuple(e.layer for e in own), values, tuple(e.source for e in own)))
    return _alignment(tuple(lines))


@lru_cache(maxsize=64)
def _alignment(lines: tuple[_Line, ...]) -> str:
    recipes, figure = list(dict.fromkeys(line.recipe for line in lines)), go.Figure()
    for line in lines:
        figure.add_trace(
            go.Scatter(
                x=list(line.layers),
                y=list(line.values),
                customdata=list(line.sources),
                name=f"{SHARES[line.share]} ({line.recipe})",
                mode="lines+markers",
                line={
                    "color": COLOURS[list(SHARES).index(line.share)],
                    "dash": DASHES[recipes.index(line.recipe) % len(DASHES)],
                },
                hovertemplate="%{customdata}: %{y:.1%}<extra>%{fullData.name}</extra>",
            )
        )
    _dress(figure, x="layer", y="share")
    figure.update_xaxes(dtick=1 if lines and len(set(lines[0].layers)) <= 16 else None)
    figure.update_yaxes(range=[0, 1.02], tickformat=".0%")
    return str(figure.to_json())


def cosines(data: Histogram) -> str:
    """Live features by cosine to the nearest anchor."""
    return _bars(tuple(data.edges), tuple(data.counts), "cosine to the nearest anchor", "live features", False)


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
            marker={"color": COLOURS[1]},
            hovertemplate="%{customdata}: %{y:,}<extra></extra>",
        )
    )
    _dress(figure, x=x, y=y)
    if logarithmic:  # decades on a linear axis of exponents: on plotly's own log axis bars have no width
        decades = range(math.ceil(at[0]), math.floor(at[-1]) + 1)
        figure.update_xaxes(tickvals=list(decades), ticktext=[f"10{str(d).translate(RAISED)}" for d in decades])
    return str(figure.to_json())


def _dress(figure: Any, *, x: str, y: str) -> None:
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
