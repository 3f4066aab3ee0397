"""The record of a study: one question asked of a model and its dictionaries, and what it found.

`lexiscope study NAME` writes one as JSON; `/studies` lists them and draws each from its record alone.
"""

from typing import Any, Literal

from pydantic import Field

from lexiscope.records.record import Record

RECORD_NAME = r"[a-z0-9][a-z0-9-]{0,99}"
"""what a record may be called: its file, and the last part of its address"""


class FeatureCell(Record):
    """A feature in a table or a chart."""

    id: str = Field(description="`model/source/index`")
    text: str = Field(description="what it is called there")


Cell = FeatureCell | int | float | str | None


class StudyFigure(Record):
    """One measured number beside the same number under the study's control."""

    label: str
    unit: str = Field(description="`share`, `cosine`, `nats`, `features`, …: as in the measures")
    value: float
    low: float | None = Field(None, description="lower end of its 95 % interval")
    high: float | None = None
    control: float | None = Field(
        None, description="the same figure under the control; null where it has none"
    )
    meaning: str = Field(description="what it measures, in a sentence")


class StudyTable(Record):
    """Rows of text, numbers and features under their headings."""

    title: str
    columns: list[str]
    rows: list[list[Cell]]


class ChartPoint(Record):
    x: float
    y: float
    low: float | None = None
    high: float | None = None


class ChartSeries(Record):
    """A line, or the bars of one colour. `control` series are drawn as such."""

    name: str
    points: list[ChartPoint]
    control: bool = False


class ChartNode(Record):
    """A node of a flow, in column `column` from the left; `size` is its height beside the others."""

    id: str
    label: str
    column: int
    size: float = 1.0
    feature: str = Field("", description="`model/source/index`, where it is a feature")


class ChartLink(Record):
    source: str
    target: str
    weight: float = Field(description="width of the line; below zero: an inhibiting one")


class StudyChart(Record):
    """A chart's description: `lines` and `bars` have series (the x of a bar is its place among
    `categories`), a `flow` has nodes in named columns and links from column to column.
    """

    kind: Literal["lines", "bars", "flow"]
    title: str
    x_label: str = ""
    y_label: str = ""
    categories: list[str] = Field([])
    series: list[ChartSeries] = Field([])
    nodes: list[ChartNode] = Field([])
    links: list[ChartLink] = Field([])


class Recurrence(Record):
    """In how many other seeds each live feature of a dictionary recurs."""

    dictionary: str = Field(description="`model/source`")
    identity: str = Field(description="of the dictionary's weights")
    recur_in: list[list[int]] = Field(
        description="the live features that recur in 0, 1, … of the other seeds, by their numbers"
    )


class StudyRecord(Record):
    """What one run of a study found."""

    name: str = Field(pattern=f"^{RECORD_NAME}$", description="its file's name and the end of its address")
    study: str = Field(description="which study: `lexiscope studies` lists them")
    model: str = Field(description="the language model's id")
    question: str
    source: str = Field(description="the publication that the method is from")
    answer: str = Field(description="what the figures say, in a sentence or two")
    control: str = Field(description="what the figures are compared with")
    uncertainty: str = Field(description="what the intervals are over")
    figures: list[StudyFigure]
    tables: list[StudyTable] = Field([])
    chart: StudyChart | None = None
    recurrence: Recurrence | None = Field(
        None, description="of the study's first dictionary, where it compares seeds; feature pages show it"
    )
    arguments: dict[str, Any] = Field(description="as given to the study, defaults included")
    command: str


class StudySummary(Record):
    """One record in a list."""

    name: str
    study: str
    model: str
    question: str
    answer: str


class StudyList(Record):
    """`/studies`: every record that is kept, by study and model."""

    studies: list[StudySummary]
