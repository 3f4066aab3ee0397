"""`/about`: what a name is and is not, and every measure."""

from pydantic import Field

from lexiscope.measures import Measure
from lexiscope.records.record import Record


class MeasureDefinition(Record):
    """One measure, in words."""

    name: str = Field(description="column, record field and key")
    label: str
    unit: str
    meaning: str
    chance: str = Field(description="how its chance level is found; empty where it has none")
    absent: str = Field(description="when it is null; empty where it never is")
    better: str = Field(description="more, less, or empty where neither end is better")

    @classmethod
    def of(cls, measure: Measure, chance: str) -> "MeasureDefinition":
        return cls(
            name=measure.name,
            label=measure.label,
            unit=measure.unit,
            meaning=measure.meaning,
            chance=chance,
            absent=measure.absent,
            better=measure.better,
        )


class MeasureGroup(Record):
    """The measures of one level."""

    title: str
    measures: list[MeasureDefinition]


class AboutPage(Record):
    """`/about`"""

    relations: dict[str, str] = Field(description="what a feature has to do with its word, in words")
    verdicts: dict[str, str] = Field(description="what each verdict means")
    groups: list[MeasureGroup] = Field(description="every measure once, where it is first reported")
