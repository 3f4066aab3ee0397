"""Lists of features that somebody collected: in an address, or kept by the server."""

from typing import Annotated

from pydantic import Field, StringConstraints

from lexiscope.records.feature import FeatureRef
from lexiscope.records.record import Record, Request, WithoutNul, example
from lexiscope.records.requests import ListedId

MOST_LISTED = 500
"""features of a list; its address is still short enough for browsers"""
ListName = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=80), WithoutNul]


class ListEntry(Record):
    """One feature of a list."""

    id: str = Field(description="model/source/index")
    feature: FeatureRef | None = Field(description="null where the index does not have it")
    note: str


class SharedList(Record):
    """A list of features, as its address holds it."""

    build: str
    name: str
    entries: list[ListEntry]


class NotedFeature(Request):
    """One feature of a list to keep."""

    id: ListedId = Field(description="model/source/index")
    note: Annotated[str, Field(max_length=500)] = ""


class ListRequest(Request):
    """A list to keep under its name."""

    model_config = example(
        name="royal titles", features=[{"id": "demo/1-vasae/17", "note": "king, queen"}], version=0
    )

    name: ListName = Field(json_schema_extra={"pattern": r"\S"})
    features: list[NotedFeature] = Field(max_length=MOST_LISTED)
    version: int = Field(
        0, ge=0, lt=2**31 - 1, description="of the list that it replaces; 0 where there is none yet"
    )


class KeptListSummary(Record):
    """A list that the server keeps."""

    id: int
    owner: str = Field(description="the name of the key that keeps it")
    name: str
    n_features: int
    version: int = Field(description="grows with each change; `version` of the request that replaces it")
    changed: str = Field(description="ISO 8601, UTC")


class KeptListPage(Record):
    """`/lists/{id}`: a list that the server keeps, with what the index says of its features."""

    build: str
    kept: KeptListSummary
    entries: list[ListEntry]


class KeptListOverview(Record):
    """The lists that the server keeps, the last changed first."""

    lists: list[KeptListSummary]
