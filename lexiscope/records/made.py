"""`/{model}/{source}/made`: how a dictionary was made."""

from typing import Any

from pydantic import Field

from lexiscope.records.dictionary import LayerSummary
from lexiscope.records.record import Record


class TrainingCurve(Record):
    """One measure of `train.jsonl` over the run."""

    name: str = Field(description="a measure of a run while it trains, or a term of the loss")
    label: str
    unit: str
    meaning: str
    tokens: list[int] = Field(description="training tokens seen at each point, at most 200 points")
    values: list[float]


class HeldOutMetric(Record):
    """One measure of `metrics.json` and its definition."""

    name: str
    label: str
    unit: str
    meaning: str
    value: int | float | str
    chance: float | None = Field(None, description="what chance gives, where it is measured")
    interval: list[float] | None = Field(None, description="its 95 % interval [low, high], where computed")


class MadePage(Record):
    """How a dictionary was made: its recipe, text and anchors, the curves of the run, its figures on held-out
    text, and the command that makes the run again.
    """

    build: str
    summary: LayerSummary
    hook_name: str
    training: dict[str, Any] = Field(description="the checkpoint's metadata block")
    curves: list[TrainingCurve] = Field(description="empty where the checkpoint has no train.jsonl any more")
    metrics: list[HeldOutMetric] = Field(description="of metrics.json, those that are one number or one text")
    command: str = Field(description="trains it again; empty where Lexiscope did not train it")
