"""Panels of lines as an SVG file. Plain SVG: no plotting library of this project draws a file without a
browser.
"""

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 300, 190, 64, 34, 14, 46
COLOURS = {"cone": "#0072b2", "matched": "#d55e00", "plain": "#666666"}
DISTINCT = ("#0072b2", "#56b4e9", "#d55e00", "#e69f00")
"""For further series: colours that colour-blind readers tell apart (Okabe and Ito 2008)."""


class Point(NamedTuple):
    x: float
    y: float
    low: float | None = None
    high: float | None = None
    """ends of an interval of y"""


class Series(NamedTuple):
    name: str
    colour: str
    points: Sequence[Point]


class Panel(NamedTuple):
    title: str
    x_axis: str
    y_axis: str
    series: Sequence[Series]
    y_range: tuple[float, float]
    x_ticks: Sequence[float]
    target: float | None = None
    """a dashed line at this y"""


def draw(panels: Sequence[Panel]) -> str:
    """The panels side by side, with one legend under them."""
    across = LEFT + WIDTH + RIGHT
    width, height = across * len(panels), TOP + HEIGHT + BOTTOM + 24
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="#fff"/>',
    ]
    for number, panel in enumerate(panels):
        parts += [f'<g transform="translate({number * across + LEFT} {TOP})">', *_panel(panel), "</g>"]
    legend = {series.name: series.colour for panel in panels for series in panel.series}
    x = LEFT
    for name, colour in legend.items():
        parts.append(f'<rect x="{x}" y="{height - 21}" width="10" height="10" fill="{colour}"/>')
        parts.append(f'<text x="{x + 15}" y="{height - 12}">{escape(name)}</text>')
        x += 34 + 7 * len(name)
    return "\n".join([*parts, "</svg>\n"])


def _panel(panel: Panel) -> list[str]:
    margin = 0.04 * ((panel.x_ticks[-1] - panel.x_ticks[0]) or 1)
    left, right = panel.x_ticks[0] - margin, panel.x_ticks[-1] + margin
    low, step = panel.y_range[0], _step(panel.y_range[1] - panel.y_range[0])
    steps = math.ceil((panel.y_range[1] - low) / step - 1e-9)

    def across(x: float) -> float:
        return WIDTH * (x - left) / (right - left)

    def down(y: float) -> float:
        return HEIGHT * (1 - (y - low) / (steps * step))

    parts = [f'<text y="-12" font-weight="bold">{escape(panel.title)}</text>']
    for number in range(steps + 1):
        y = low + number * step
        parts.append(f'<path d="M0 {down(y):.1f}h{WIDTH}" stroke="#e4e4e4"/>')
        parts.append(f'<text x="-7" y="{down(y) + 4:.1f}" text-anchor="end">{y:.3g}</text>')
    for x in panel.x_ticks:
        parts.append(f'<text x="{across(x):.1f}" y="{HEIGHT + 16}" text-anchor="middle">{x:.2g}</text>')
    parts.append(
        f'<text x="{WIDTH / 2}" y="{HEIGHT + 34}" text-anchor="middle">{escape(panel.x_axis)}</text>'
    )
    turned = f"translate(-46 {HEIGHT / 2}) rotate(-90)"
    parts.append(f'<text transform="{turned}" text-anchor="middle">{escape(panel.y_axis)}</text>')
    if panel.target is not None:
        parts.append(f'<path d="M0 {down(panel.target):.1f}h{WIDTH}" stroke="#999" stroke-dasharray="4"/>')
    for series in panel.series:
        line = " ".join(f"{across(point.x):.1f},{down(point.y):.1f}" for point in series.points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{series.colour}" stroke-width="1.5"/>')
        for point in series.points:
            x, y = across(point.x), down(point.y)
            if point.low is not None and point.high is not None:
                ends = f"M{x:.1f} {down(point.low):.1f}V{down(point.high):.1f}"
                parts.append(f'<path d="{ends}" stroke="{series.colour}"/>')
            title = f"<title>{escape(series.name)}, {point.x:g}: {point.y:.3f}</title>"
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{series.colour}">{title}</circle>')
    parts.append(f'<path d="M0 0V{HEIGHT}H{WIDTH}" fill="none" stroke="#444"/>')
    return parts


def _step(span: float) -> float:
    """A round number that divides the span into three to six steps."""
    power = 10 ** math.floor(math.log10(span))
    return next(power * factor for factor in (0.2, 0.25, 0.5, 1, 2) if span / (power * factor) <= 6)
