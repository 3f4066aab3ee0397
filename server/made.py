"""How a dictionary was made: its recipe, the curves of its run, its held-out figures and what they mean."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.responses import Response

from lexiscope import files, training_files
from lexiscope.measures import RUN, TRAINING
from lexiscope.records import Filters
from lexiscope.records.made import HeldOutMetric, MadePage, TrainingCurve
from server.dependencies import OpenStore
from server.page_router import PageRouter
from server.pages import ModelId, SourceName
from server.responses import PageContent, not_modified, respond

MAX_POINTS = 200
"""of a curve; longer logs are thinned evenly"""
TERM = "a further term of the loss, weighted as it entered"

router = PageRouter()


@router.page("/{model:model}/{source}/made", MadePage, api="/dictionaries/{model}/{source}/made")
def made(request: Request, store: OpenStore, model: ModelId, source: SourceName) -> Response:
    """How one dictionary was made, and the command that makes it again."""
    if cached := not_modified(request):
        return cached
    page = store.dictionary_page(model, source, Filters(limit=1))
    [place] = [one for one in store.dictionaries() if (one.model, one.source) == (model, source)]
    lines = training_files.read_log(Path(place.checkpoint_path)) if place.checkpoint_path else []
    record = MadePage(
        build=page.build,
        summary=page.summary,
        hook_name=page.hook_name,
        training=page.training,
        curves=curves(lines),
        metrics=held_out(page.metrics),
        command=training_files.command(page.training, files.portable_path(place.model_path) or "MODEL"),
    )
    return respond(request, PageContent(record, "made.html"))


def curves(lines: Sequence[Mapping[str, Any]]) -> list[TrainingCurve]:
    """One curve for each measure and each term of the loss that the log has numbers for."""
    found = []
    for name in [*TRAINING, *sorted({f"terms.{name}" for line in lines for name in line.get("terms") or {}})]:
        points = thinned(
            [(line["tokens"], float(one)) for line in lines if (one := _logged(line, name)) is not None]
        )
        if points:
            measure = TRAINING.get(name)
            found.append(
                TrainingCurve(
                    name=name,
                    label=measure.label if measure else f"{name.removeprefix('terms.')}, a term of the loss",
                    unit=measure.unit if measure else "number",
                    meaning=measure.meaning if measure else TERM,
                    tokens=[tokens for tokens, _ in points],
                    values=[value for _, value in points],
                )
            )
    return found


def _logged(line: Mapping[str, Any], name: str) -> int | float | None:
    """A number of a line of the log; None where it has none."""
    value = (line.get("terms") or {}).get(name.removeprefix("terms.")) if "." in name else line.get(name)
    return value if isinstance(value, int | float) else None


def thinned(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """At most MAX_POINTS of them, the first and the last among these."""
    if len(points) <= MAX_POINTS:
        return list(points)
    return [points[round(place * (len(points) - 1) / (MAX_POINTS - 1))] for place in range(MAX_POINTS)]


def held_out(metrics: Mapping[str, Any]) -> list[HeldOutMetric]:
    """The measures of a run that `metrics` holds, in their order."""
    found = []
    for name, measure in RUN.items():
        value = metrics.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            continue
        interval = metrics.get(measure.interval) if measure.interval else None
        found.append(
            HeldOutMetric(
                name=name,
                label=measure.label,
                unit=measure.unit,
                meaning=measure.meaning,
                value=value,
                chance=metrics.get(measure.chance) if measure.chance else None,
                interval=interval if isinstance(interval, list) else None,
            )
        )
    return found
