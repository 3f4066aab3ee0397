"""The drawing of docs/results/pareto-<model>-<layer>.svg, for bench/results.py: what a share of names or of
alignment costs in ΔCE.

A point is a run; the sweep's points are those of `<layer>-sweep-*`, the recipes' are labelled squares. Plain
SVG: no plotting library of this project draws a file without a browser.
"""

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

WIDTH, HEIGHT, LEFT, TOP, GAP = 360, 260, 60, 50, 90


class Point(NamedTuple):
    label: str
    swept: bool
    delta_ce: float
    supported: float
    aligned: float


def draw(title: str, points: Sequence[Point]) -> str:
    """An SVG of two panels: supported share of live features, and aligned share, against ΔCE in nats a token."""
    high = max(point.delta_ce for point in points) * 1.08
    low = min(0.0, min(point.delta_ce for point in points))
    size = (2 * WIDTH + GAP + LEFT + 40, HEIGHT + TOP + 60)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size[0]} {size[1]}" font-family="sans-serif" font-size="14">'
    ]
    parts.append(
        f'<rect width="100%" height="100%" fill="#fff"/><text x="{LEFT}" y="24" font-size="16">{escape(title)}</text>'
    )
    for panel, (words, field) in enumerate((("supported, live", "supported"), ("aligned, live", "aligned"))):
        left = LEFT + panel * (WIDTH + GAP)
        parts += _axes(left, words, low, high)
        for point in points:
            x = left + (point.delta_ce - low) / (high - low) * WIDTH
            y = TOP + (1 - getattr(point, field)) * HEIGHT
            said = (
                f"<title>{escape(point.label)}: ΔCE {point.delta_ce:.4f}, {getattr(point, field):.3f}</title>"
            )
            if point.swept:
                parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="#3366aa">{said}</circle>')
            else:
                parts.append(
                    f'<rect x="{x - 5:.1f}" y="{y - 5:.1f}" width="10" height="10" fill="#b34700">{said}</rect>'
                )
            end = x > left + WIDTH * 0.7
            anchor, shift = ("end", -8) if end else ("start", 8)
            parts.append(
                f'<text x="{x + shift:.1f}" y="{y - 6:.1f}" font-size="11" text-anchor="{anchor}">{escape(point.label)}</text>'
            )
    return "\n".join([*parts, "</svg>\n"])


def _axes(left: float, words: str, low: float, high: float) -> list[str]:
    bottom = TOP + HEIGHT
    parts = [f'<path d="M{left} {TOP}V{bottom}H{left + WIDTH}" fill="none" stroke="#444"/>']
    for tick in range(6):
        y, x = bottom - tick / 5 * HEIGHT, left + tick / 5 * WIDTH
        parts.append(f'<text x="{left - 8}" y="{y + 5:.1f}" text-anchor="end">{tick / 5:.1f}</text>')
        parts.append(f'<path d="M{left} {y:.1f}h{WIDTH}" stroke="#ddd"/>' if tick else "")
        parts.append(
            f'<text x="{x:.1f}" y="{bottom + 20}" text-anchor="middle">{low + tick / 5 * (high - low):.3f}</text>'
        )
    parts.append(
        f'<text x="{left + WIDTH / 2}" y="{bottom + 42}" text-anchor="middle">ΔCE, nats a token</text>'
    )
    return [*parts, f'<text x="{left}" y="{TOP - 8}">{escape(words)}</text>']
