"""What every record is made of: base classes, fields that hold measures, tokens, histograms and errors."""

from collections.abc import Collection, Mapping
from difflib import get_close_matches
from functools import cache
from http import HTTPStatus
from typing import Annotated, Any, Literal

from annotated_types import MaxLen
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    computed_field,
    model_validator,
)
from pydantic_core import PydanticCustomError

from lexiscope.measures import Measure

RESERVED_MODEL_IDS = frozenset(
    "about api compare docs healthz labels lists metrics progress random read readyz search static steer "
    "studies tokens".split()
)
"""first parts of the addresses of pages and services, which no model may have as its id"""


def set_of(source: str) -> str:
    """The set in a source's name, `<layer>-<set>`."""
    return source.partition("-")[2]


class Record(BaseModel):
    model_config = ConfigDict(frozen=True)


class Request(Record):
    """What a client sends. A field that does not exist is an error that names the nearest one; nothing is
    converted, so that 0 is no `false` and "5" no number; a list that is too long is refused before its items
    are read.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _check_shape(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        for name, value in given.items():
            field = cls.model_fields.get(name)
            if field is None:
                message = unknown_name("field", str(name), cls.model_fields)
                raise PydanticCustomError("unknown_field", "{message}", {"message": message})
            for limit in field.metadata:
                if isinstance(limit, MaxLen) and isinstance(value, list) and len(value) > limit.max_length:
                    message = f"{name} has {len(value):,} items, and at most {limit.max_length:,} are read"
                    raise PydanticCustomError("too_long", "{message}", {"message": message})
        return given


def _refuse_nul(text: str) -> str:
    if "\0" in text:
        raise PydanticCustomError("nul", "a text with a NUL character cannot be kept: leave it out")
    return text


WithoutNul = AfterValidator(_refuse_nul)
"""for a text that a database keeps"""


def example(**fields: Any) -> ConfigDict:
    """The configuration of a request with an example, which the API reference has and a test sends."""
    return ConfigDict(json_schema_extra={"examples": [fields]})


def unknown_name(what: str, name: str, known: Collection[str]) -> str:
    """What is wrong with a name that is not among the `known` ones: the nearest, or all if none is near."""
    near = get_close_matches(name[:80], known, n=1, cutoff=0.5)
    if near:
        return f"there is no {what} {name[:80]!r}; the nearest is {near[0]!r}"
    return f"there is no {what} {name[:80]!r}; there are: {', '.join(known) or 'none'}"


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


MAX_DETAIL = 2000
"""characters of an error's detail; messages repeat what a client sent"""


def _detail(text: Any) -> Any:
    """A text that can be encoded, and is not longer than MAX_DETAIL."""
    if not isinstance(text, str):
        return text
    text = text.encode(errors="backslashreplace").decode()
    return text if len(text) <= MAX_DETAIL else f"{text[: MAX_DETAIL - 2]} …"


class ErrorRecord(Record):
    """The one shape of every error: problem details (RFC 9457), sent as `application/problem+json`."""

    type: Literal["about:blank"] = "about:blank"
    status: int
    detail: Annotated[str, BeforeValidator(_detail)] = Field(
        description="what was wrong, with the value, and what would be right"
    )
    kept: str = Field("", description="what was kept safe, where something could have been lost")

    @computed_field(description="the name of the status")  # type: ignore[prop-decorator]
    @property
    def title(self) -> str:
        known = {status.value: status.phrase for status in HTTPStatus}
        return known.get(self.status, "Client Closed Request" if self.status == 499 else "Error")
