"""What every record is made of: the base class, fields that hold measures, tokens, histograms and errors."""

from collections.abc import Mapping
from functools import cache
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from lexiscope.measures import Measure

RESERVED_MODEL_IDS = frozenset(
    {"about", "api", "compare", "docs", "healthz", "random", "read", "search", "static", "steer", "tokens"}
)
"""first parts of the addresses of pages and services, which no model may have as its id"""


def set_of(source: str) -> str:
    """The set in a source's name, `<layer>-<set>`."""
    return source.partition("-")[2]


class Record(BaseModel):
    model_config = ConfigDict(frozen=True)


def measured(measure: Measure, default: Any = ...) -> Any:
    """A field that holds a measure, or a `Share` of the measure and its chance; described by the measure."""
    meaning = measure.meaning if default is ... else measure.comment
    field = Field(default, description=meaning, json_schema_extra={"x-unit": measure.unit})
    field.metadata.append(measure)
    return field


@cache
def measures_of(record: type[Record]) -> Mapping[str, Measure]:
    """{field: the measure it holds}, for the fields made by `measured`."""
    return {
        name: measure
        for name, field in record.model_fields.items()
        for measure in field.metadata
        if isinstance(measure, Measure)
    }


def measured_values(*records: Record | None) -> dict[str, Any]:
    """{name of a measure: its value, or its `Share`} of all measures that the records hold; None is
    skipped.
    """
    return {
        measure.name: getattr(record, field)
        for record in records
        if record is not None
        for field, measure in measures_of(type(record)).items()
    }


class Token(Record):
    """One vocabulary entry. `shown` is unambiguous (␣ ↵ ⇥, hex for partial characters); `raw` is its bytes in
    hex.
    """

    id: int
    shown: str
    raw: str = ""


class ScoredToken(Token):
    """A token with a number whose meaning the field holding it gives (cosine, logit, share)."""

    score: float


class Histogram(Record):
    """Bins between log-spaced `edges` (len(counts) + 1); zeros are counted apart."""

    edges: list[float]
    counts: list[int]
    zeros: int


class ErrorRecord(Record):
    """The one shape of every error."""

    ok: Literal[False] = False
    status: int
    error: str
    kept: str = Field("", description="what was kept safe, where something could have been lost")
