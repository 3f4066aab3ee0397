"""`/lists`: a list of features that somebody collected."""

from pydantic import Field

from lexiscope.records.feature import FeatureRef
from lexiscope.records.record import Record


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
