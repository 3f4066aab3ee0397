"""A person's own label of a feature, beside the names that are computed."""

from typing import Annotated

from pydantic import Field, StringConstraints

from lexiscope.records.record import Record, Request, WithoutNul, example

Written = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200), WithoutNul]


class LabelRequest(Request):
    """A label to add."""

    model_config = example(label="royal titles", note="king, queen, prince")

    label: Written = Field(
        description="what the feature is, in a few words", json_schema_extra={"pattern": r"\S"}
    )
    note: Annotated[str, StringConstraints(strip_whitespace=True, max_length=5000), WithoutNul] = Field(
        "", description="why, or anything else"
    )
    author: Annotated[str, StringConstraints(strip_whitespace=True, max_length=80), WithoutNul] = Field(
        "", description="who writes it; where keys are on, it is the key's name, and this must be empty"
    )


class Label(Record):
    """A label that a person gave a feature."""

    id: int
    feature: str = Field(description="`model/source/index`")
    label: str
    note: str
    author: str = Field(description="the name of the key that wrote it, or what the person wrote")
    created: str = Field(description="ISO 8601, UTC")
    outdated: bool = Field(
        description="the dictionary of this name is no longer the one that the label was written about, or "
        "is not in the index"
    )


class LabelList(Record):
    """Labels, the latest first."""

    labels: list[Label]
    next: int | None = Field(None, description="`before` of the next page; null on the last")
