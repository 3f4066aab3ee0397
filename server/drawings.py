"""A chart as an SVG that needs no script, and as data for Plotly, which a browser loads when a person asks to
zoom.

Places in a drawing are percentages of it and text has a size of its own, so that a chart fits any width
without becoming illegible. Colours are classes (`s0` to `s7`), because the site's policy allows no style
attributes and because each theme has its own.
"""

import json
import math
import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

from markupsafe import Markup, escape

SHAPES = (
    '<circle r="4.5"/>',
    '<path d="M-4-4h8v8h-8z"/>',
    '<path d="M0-5.5 5.5 0 0 5.5-5.5 0z"/>',
    '<path d="M0-5 5 4H-5z"/>',
    '<path d="M-2-5h4v3h3v4H2v3h-4V2h-3v-4h3z"/>',
    '<path d="M0 5 5-4H-5z"/>',
    '<path d="M-5 0-2.5-4.5h5L5 0 2.5 4.5h-5z"/>',
    '<path d="M-5-2.5h10v5H-5z"/>',
)
"""markers, so that lines differ not only by colour; Plotly's equivalents are in charts.js"""
MANY = 40
"""points of a line from which it is drawn without markers"""


class Point(NamedTuple):
    """One value, what it says on hover, and the page of what is behind it."""

    x: float
    y: float | None
    words: str
    href: str = ""
    width: float = 0.0
    """of a bar, around `x`"""


class Series(NamedTuple):
    """A line, or the bars, of a chart. `style` is the number of its colour and marker."""

    label: str
    style: int
    points: tuple[Point, ...]


class Axis(NamedTuple):
    """The range of an axis and its marks, (value, text) pairs."""

    label: str
    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]

    def share(self, value: float) -> float:
        """Where a value is on the axis, in per cent of its length."""
        return 100 * (value - self.low) / ((self.high - self.low) or 1)


class Cell(NamedTuple):
    """A cell of a chart's table, a link where a point of the chart is one."""

    text: str
    href: str = ""


class Chart(NamedTuple):
    """What a chart shows: its series, its axes, and the same figures as a table."""

    name: str
    """unique on a page"""
    title: str
    description: str
    kind: Literal["lines", "bars"]
    x: Axis
    y: Axis
    series: tuple[Series, ...]
    heads: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    """one cell a head; the first names the row"""
    level: float | None = None
    """a value of y to mark across the drawing"""

    @property
    def id(self) -> str:
        return "chart-" + re.sub(r"[^A-Za-z0-9]+", "-", self.name)

    @property
    def svg(self) -> Markup:
        return _svg(self)

    @property
    def data(self) -> Markup:
        """The series for Plotly, as JSON that is safe within a script element."""
        series = [
            {
                "label": one.label,
                "style": one.style,
                "x": [point.x for point in one.points],
                "y": [point.y for point in one.points],
                "width": [point.width for point in one.points] if self.kind == "bars" else [],
                "words": [point.words for point in one.points],
                "href": [point.href for point in one.points],
            }
            for one in self.series
        ]
        axes = {"x": self.x._asdict(), "y": self.y._asdict()}
        text = json.dumps({"kind": self.kind, "title": self.title, **axes, "series": series})
        return Markup(text.replace("<", "\\u003c"))


def shares() -> Axis:
    """An axis for shares."""
    return Axis("", 0, 1, tuple((part / 4, f"{25 * part} %") for part in range(5)))


def numbers(label: str, values: Sequence[float], *, from_zero: bool = True) -> Axis:
    """An axis with about five round marks that holds all values, and 0 unless told otherwise."""
    low, high = min(values, default=0.0), max(values, default=0.0)
    if from_zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if low == high:
        high = low + 1
    step = 10 ** math.floor(math.log10((high - low) / 4))
    step *= next(factor for factor in (1, 2, 2.5, 5, 10) if step * factor * 5 >= high - low)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = [round(step * place, 12) for place in range(first, last + 1)]
    return Axis(label, ticks[0], ticks[-1], tuple((tick, short(tick)) for tick in ticks))


def short(value: float) -> str:
    """A round number for an axis: 0.25, 1,500, 20k, 1.5M."""
    for size, letter in ((1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e6 if letter == 'M' else 1e3):.10g}{letter}"
    return f"{value:,.10g}"


def marker(style: int) -> Markup:
    """A short line with the marker of a style, for a legend."""
    line = '<line x1="0" x2="40" y1="8" y2="8"/>'
    shape = SHAPES[style % len(SHAPES)]
    return Markup(
        f'<svg class="key s{style % len(SHAPES)}" width="40" height="16" aria-hidden="true">'
        f'{line}<svg x="20" y="8">{shape}</svg></svg>'
    )


def _svg(chart: Chart) -> Markup:
    inside = [_grid(chart)]
    for series in chart.series:
        inside.append(_bars(chart, series) if chart.kind == "bars" else _line(chart, series))
    if chart.level is not None:
        at = _percent(100 - chart.y.share(chart.level))
        inside.append(f'<line class="level" x1="0" x2="100%" y1="{at}" y2="{at}"/>')
    return Markup(
        f'<svg class="drawing" role="group" aria-labelledby="{chart.id}-title" '
        f'aria-describedby="{chart.id}-words">'
        f'<title id="{chart.id}-title">{escape(chart.title)}</title>'
        f'<desc id="{chart.id}-words">{escape(chart.description)}</desc>{"".join(inside)}</svg>'
    )


def _grid(chart: Chart) -> str:
    lines = []
    for value, text in chart.y.ticks:
        at = _percent(100 - chart.y.share(value))
        lines.append(
            f'<line class="grid" x1="0" x2="100%" y1="{at}" y2="{at}"/>'
            f'<text x="0" y="{at}" dx="-8" dy="5" text-anchor="end">{escape(text)}</text>'
        )
    for place, (tick, text) in enumerate(chart.x.ticks):
        share = chart.x.share(tick)
        anchor = "start" if place == 0 and share < 4 else "end" if share > 96 else "middle"
        lines.append(
            f'<text x="{_percent(share)}" y="100%" dy="20" text-anchor="{anchor}">{escape(text)}</text>'
        )
    lines.append(
        f'<text class="label" x="50%" y="100%" dy="40" text-anchor="middle">{escape(chart.x.label)}</text>'
    )
    return f'<g aria-hidden="true">{"".join(lines)}</g>'


def _line(chart: Chart, series: Series) -> str:
    """Pieces of a line between the points that have a value, and a marker at each."""
    known = [(chart.x.share(p.x), 100 - chart.y.share(p.y), p) for p in series.points if p.y is not None]
    pieces: list[list[str]] = [[]]
    for point in series.points:
        if point.y is None:
            pieces.append([])
        else:
            pieces[-1].append(f"{chart.x.share(point.x):.4g},{100 - chart.y.share(point.y):.4g}")
    lines = "".join(f'<polyline points="{" ".join(piece)}"/>' for piece in pieces if len(piece) > 1)
    stretched = (
        f'<svg viewBox="0 0 100 100" preserveAspectRatio="none" width="100%" height="100%">{lines}</svg>'
    )
    shape = SHAPES[series.style % len(SHAPES)]
    marks = "".join(
        _linked(point, f'<svg x="{_percent(x)}" y="{_percent(y)}">{shape}</svg>') for x, y, point in known
    )
    return f'<g class="s{series.style % len(SHAPES)}">{stretched}{"" if len(known) > MANY else marks}</g>'


def _bars(chart: Chart, series: Series) -> str:
    """Bars at least 1 % high, so that a single feature can be seen."""
    drawn = []
    for point in series.points:
        if not point.y:
            continue
        left, right = (chart.x.share(point.x + side * point.width / 2) for side in (-1, 1))
        height = max(chart.y.share(point.y), 1)
        gap = 0.1 * (right - left)
        drawn.append(
            _linked(
                point,
                f'<rect x="{_percent(left + gap / 2)}" width="{_percent(right - left - gap)}" '
                f'y="{_percent(100 - height)}" height="{_percent(height)}"/>',
            )
        )
    return f'<g class="s{series.style % len(SHAPES)}">{"".join(drawn)}</g>'


def _linked(point: Point, shape: str) -> str:
    """A shape with its words on hover, a link where something is behind it. The table has the same link for
    the keyboard, so that hundreds of points are no stops of the Tab key.
    """
    words = escape(point.words)
    if not point.href:
        return f"<g><title>{words}</title>{shape}</g>"
    return (
        f'<a href="{escape(point.href)}" tabindex="-1" aria-label="{words}"><title>{words}</title>{shape}</a>'
    )


def _percent(value: float) -> str:
    return f"{value:.4g}%"
