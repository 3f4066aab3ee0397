"""How results look in a notebook."""

from collections.abc import Iterator, Sequence
from html import escape

from lexiscope.records import Context, FeaturePage, FeatureRecord, Record, Share, measures_of
from lexiscope.records.live import SweepResponse


class Feature(FeaturePage):
    """A feature's page, which a notebook shows with the name that its verdict is on, its evidence and its
    strongest contexts.
    """

    def _repr_html_(self) -> str:
        feature, fires = self.feature, self.feature.fires
        called = feature.name.shown
        if fires is not None:
            called = f"fires {fires.relation} {' '.join(word.shown for word in fires.words)}"
        rows = "".join(row for record in _judged(feature) for row in _rows(record))
        contexts = [context for context in feature.contexts if context.kind == "top"][:5]
        return (
            f"<div><h4>{escape(called)} <small>{escape(feature.id)}</small></h4>"
            f"<p><b>{escape(feature.verdict)}</b>: {escape(feature.verdict_words)}</p>"
            f"<table><tr><th></th><th>value</th><th>chance</th></tr>{rows}</table>"
            + "".join(_line(context, feature.max_activation) for context in contexts)
            + "</div>"
        )


def _judged(feature: FeatureRecord) -> Iterator[Record]:
    """The parts of a feature that hold measures, and what the ablation pass measured."""
    parts = [getattr(feature, name) for name in FeatureRecord.model_fields]
    for part in (*parts, feature.evidence and feature.evidence.causal):
        if isinstance(part, Record):
            yield part


def _rows(record: Record) -> Iterator[str]:
    """The measures of a record as rows of a table."""
    for field, measure in measures_of(type(record)).items():
        value = getattr(record, field)
        shown, chance = (value.value, value.null) if isinstance(value, Share) else (value, None)
        if shown is not None:
            cells = "".join(f"<td>{_number(one)}</td>" for one in (shown, chance))
            yield f'<tr title="{escape(measure.meaning)}"><td>{escape(measure.label)}</td>{cells}</tr>'


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return str(value) if isinstance(value, int) else f"{value:.4g}"


ABOVE, BELOW = "255,140,0", "60,130,255"


def _line(context: Context, highest: float) -> str:
    """The tokens of a context, darker where the feature is more active, blue where it is negative."""
    top = highest or 1.0
    tokens = "".join(
        f'<span style="background:rgba({BELOW if value < 0 else ABOVE},{min(abs(value) / top, 1):.2f})">'
        f"{escape(token.shown.replace('␣', ' '))}</span>"
        for token, value in zip(context.tokens, context.values, strict=True)
    )
    return f'<div style="white-space:pre-wrap" dir="auto">{tokens}</div>'


class Sweep(SweepResponse):
    """A dose-response curve, which a notebook draws: the mean probability of the first feature's token (line)
    and the perplexity of the text (dashes), each from 0 to its highest, over the figures of every strength.
    """

    def _repr_html_(self) -> str:
        points = sorted([self.swept.default, *self.swept.points], key=lambda point: point.strength)
        strengths = [point.strength for point in points]
        probabilities = [point.named[0].probability for point in points]
        perplexities = [point.perplexity for point in points]
        rows = "".join(
            "<tr>"
            + "".join(f"<td>{_number(value)}</td>" for value in values)
            + f"<td>{escape(text)}</td></tr>"
            for *values, text in zip(
                strengths, probabilities, perplexities, [point.text for point in points], strict=True
            )
        )
        name = escape(points[0].named[0].token.shown)
        spot = self.swept.sweet_spot
        return (
            f'<svg viewBox="0 0 400 120" width="400" role="img" aria-label="dose-response of {name}">'
            f"{_curve(strengths, probabilities, '')}{_curve(strengths, perplexities, '4 3')}</svg>"
            f"<p>sweet spot: {'none' if spot is None else _number(spot)} {escape(self.swept.unit)}</p>"
            f"<table><tr><th>strength</th><th>P({name})</th><th>perplexity</th><th>text</th></tr>{rows}</table>"
        )


def _curve(across: Sequence[float], up: Sequence[float], dashes: str) -> str:
    """A line in a box of 400 by 120."""
    width, height = (across[-1] - across[0]) or 1.0, max(up) or 1.0
    places = " ".join(
        f"{5 + 390 * (x - across[0]) / width:.1f},{115 - 110 * y / height:.1f}"
        for x, y in zip(across, up, strict=True)
    )
    return f'<polyline points="{places}" fill="none" stroke="currentColor" stroke-dasharray="{dashes}"/>'
