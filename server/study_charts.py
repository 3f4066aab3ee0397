"""The chart of a study's record as static SVG. Colours are classes of the stylesheet, so that it follows the
theme; every mark has its numbers on hover.
"""

import math
from collections.abc import Sequence

from markupsafe import Markup, escape

from lexiscope.records import ChartNode, ChartSeries, StudyChart
from server.drawings import Axis, numbers

WIDTH = 720
LETTER = 7.6
"""width of a character of a 14 px label"""
PLOT = {"left": 64, "right": 16, "top": 12, "height": 280, "bottom": 46}
LABELS = 230
"""width of the labels of bars"""
BAR, GAP = 16, 12
NODE, SPACE, STRIP, BETWEEN = 22, 8, 150, 90
"""least height of a node, space between two, the width of a column, and the room between two columns"""
COLOURS = 8
"""series colours of the stylesheet, `s0` to `s7`"""


def draw(chart: StudyChart) -> Markup:
    """The chart as one `<svg>`; its legend is in it."""
    body, height = {"lines": _lines, "bars": _bars, "flow": _flow}[chart.kind](chart)
    columns = 1 + max((node.column for node in chart.nodes), default=0)
    width = columns * (STRIP + BETWEEN) - BETWEEN if chart.kind == "flow" else WIDTH
    legend = _legend(chart.series) if chart.kind != "flow" and len(chart.series) > 1 else []
    parts = [*body, *(f'<g transform="translate(0 {height})">{item}</g>' for item in legend)]
    total = height + (28 if legend else 4)
    return Markup(
        f'<svg class="study-chart" width="{width}" height="{total:.0f}" role="group" '
        f'aria-label="{escape(chart.title)}">{"".join(parts)}</svg>'
    )


def _values(series: Sequence[ChartSeries]) -> list[float]:
    return [
        value
        for each in series
        for point in each.points
        for value in (point.y, point.low, point.high)
        if value is not None and math.isfinite(value)
    ] or [0.0]


def _kind(series: ChartSeries, place: int) -> str:
    return "control" if series.control else f"s{place % COLOURS}"


def _text(x: float, y: float, text: str, anchor: str = "start", kind: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind}">{escape(text)}</text>'


def _number(value: float) -> str:
    return f"{value:.4g}".replace("-", "−")


def _lines(chart: StudyChart) -> tuple[list[str], float]:
    left, top, height = PLOT["left"], PLOT["top"], PLOT["height"]
    across = WIDTH - left - PLOT["right"]
    xs = [point.x for each in chart.series for point in each.points] or [0.0]
    whole = all(x == int(x) for x in xs) and len(set(xs)) <= 16
    x_axis = numbers("", xs, from_zero=False)
    if whole:
        marks = tuple((x, f"{x:g}") for x in sorted(set(xs)))
        x_axis = Axis("", min(xs), max(xs) if max(xs) > min(xs) else min(xs) + 1, marks)
    y_axis = numbers("", _values(chart.series))

    def at(x: float, y: float) -> tuple[float, float]:
        return left + across * x_axis.share(x) / 100, top + height * (1 - y_axis.share(y) / 100)

    parts = []
    for tick, text in y_axis.ticks:
        y = at(x_axis.low, tick)[1]
        parts.append(f'<path class="grid" d="M{left} {y:.1f}h{across}"/>')
        parts.append(_text(left - 8, y + 5, text, "end"))
    parts += [_text(at(tick, 0)[0], top + height + 20, text, "middle") for tick, text in x_axis.ticks]
    parts.append(_text(left + across / 2, top + height + 42, chart.x_label, "middle", "label"))
    for place, series in enumerate(chart.series):
        kind = _kind(series, place)
        places = [at(point.x, point.y) for point in series.points]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline class="line {kind}" points="{line}"/>')
        for point, (x, y) in zip(series.points, places, strict=True):
            title = f"{series.name}, {_number(point.x)}: {_number(point.y)}"
            if point.low is not None and point.high is not None:
                ends = f"M{x:.1f} {at(point.x, point.low)[1]:.1f}V{at(point.x, point.high)[1]:.1f}"
                parts.append(f'<path class="line {kind}" d="{ends}"/>')
                title += f" ({_number(point.low)} to {_number(point.high)})"
            dot = f'<circle class="mark {kind}" cx="{x:.1f}" cy="{y:.1f}" r="4">'
            parts.append(f"{dot}<title>{escape(title)}</title></circle>")
    parts.append(_text(4, top + height + 42, chart.y_label, "start", "label"))
    return parts, top + height + PLOT["bottom"] + 8


def _bars(chart: StudyChart) -> tuple[list[str], float]:
    axis = numbers("", _values(chart.series))
    across = WIDTH - LABELS - 76
    row = BAR * len(chart.series) + GAP

    def at(value: float) -> float:
        return LABELS + across * axis.share(value) / 100

    height = row * len(chart.categories)
    parts = [f'<path class="grid" d="M{at(tick):.1f} 0V{height}"/>' for tick, _ in axis.ticks]
    parts += [_text(at(tick), height + 18, text, "middle") for tick, text in axis.ticks]
    for number, category in enumerate(chart.categories):
        parts.append(
            _text(LABELS - 10, row * number + (row - GAP) / 2 + GAP / 2 + 5, _short(category, LABELS), "end")
        )
    for place, series in enumerate(chart.series):
        kind = _kind(series, place)
        for point in series.points:
            y = row * point.x + GAP / 2 + BAR * place
            start, end = sorted((at(0), at(point.y)))
            where = chart.categories[int(point.x)]
            title = f"{where}, {series.name}: {_number(point.y)}"
            parts.append(
                f'<rect class="mark {kind}" x="{start:.1f}" y="{y + 1:.1f}" height="{BAR - 2}" '
                f'width="{max(end - start, 1):.1f}"><title>{escape(title)}</title></rect>'
            )
            far = end
            if point.low is not None and point.high is not None:
                middle = y + BAR / 2
                parts.append(
                    f'<path class="whisker" d="M{at(point.low):.1f} {middle}H{at(point.high):.1f}"/>'
                )
                far = max(end, at(point.high))
            parts.append(_text(far + 6, y + BAR - 3, _number(point.y)))
    parts.append(_text(LABELS + across / 2, height + 40, chart.x_label, "middle", "label"))
    return parts, height + 48


def _flow(chart: StudyChart) -> tuple[list[str], float]:
    columns = max((node.column for node in chart.nodes), default=0) + 1
    titles = 26 if chart.categories else 0
    step = STRIP + BETWEEN
    places: dict[str, tuple[float, float, float]] = {}
    height = 0.0
    for column in range(columns):
        y = float(titles)
        for node in (node for node in chart.nodes if node.column == column):
            tall = NODE * max(1.0, node.size)
            places[node.id] = (column * step, y, tall)
            y += tall + SPACE
        height = max(height, y)
    parts = [
        _text(column * step + STRIP / 2, 16, title, "middle", "label")
        for column, title in enumerate(chart.categories)
    ]
    widest = max((abs(link.weight) for link in chart.links), default=1.0) or 1.0
    for link in sorted(chart.links, key=lambda link: abs(link.weight)):
        (x0, y0, h0), (x1, y1, h1) = places[link.source], places[link.target]
        start, end = x0 + STRIP - 4, x1
        bend = (end - start) / 2
        path = f"M{start:.1f} {y0 + h0 / 2:.1f}C{start + bend:.1f} {y0 + h0 / 2:.1f} {end - bend:.1f} "
        path += f"{y1 + h1 / 2:.1f} {end:.1f} {y1 + h1 / 2:.1f}"
        kind = "less" if link.weight < 0 else "more"
        thick = 1 + 7 * abs(link.weight) / widest
        parts.append(
            f'<path class="link {kind}" d="{path}" stroke-width="{thick:.1f}">'
            f"<title>{escape(link.source)} → {escape(link.target)}: {_number(link.weight)}</title></path>"
        )
    parts += [_node(node, *places[node.id]) for node in chart.nodes]
    return parts, height


def _node(node: ChartNode, x: float, y: float, tall: float) -> str:
    box = f'<rect class="node" x="{x:.1f}" y="{y:.1f}" width="{STRIP - 4}" height="{tall:.1f}" rx="4"/>'
    label = _text(x + 6, y + tall / 2 + 5, _short(node.label, STRIP))
    hover = f"<title>{escape(node.label)}{f' · {escape(node.feature)}' if node.feature else ''}</title>"
    if not node.feature:
        return f"<g>{box}{label}{hover}</g>"
    return f'<a href="/{escape(node.feature)}">{box}{label}{hover}</a>'


def _short(text: str, width: float) -> str:
    room = int((width - 12) / LETTER)
    return text if len(text) <= room else f"{text[: room - 1]}…"


def _legend(series: Sequence[ChartSeries]) -> list[str]:
    x, parts = float(PLOT["left"]), []
    for place, each in enumerate(series):
        parts.append(
            f'<rect class="mark {_kind(each, place)}" x="{x:.0f}" y="6" width="12" height="12"/>'
            + _text(x + 18, 17, each.name)
        )
        x += 40 + LETTER * len(each.name)
    return parts
