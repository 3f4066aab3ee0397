"""How far a build is that runs beside the server."""

from typing import Literal

from pydantic import Field

from lexiscope.records.record import Record


class BuildStep(Record):
    """One of the steps that a build consists of, in their order."""

    label: str
    state: Literal["waiting", "running", "done"] = "waiting"


class BuildTask(Record):
    """What the running step does now."""

    label: str
    completed: float = 0
    total: float | None = Field(None, description="in the task's own unit; null where it is not known")
    rate: str = Field("", description="for example `12,000 tok/s`")
    seconds_left: float | None = None


class BuildProgress(Record):
    state: Literal["none", "running", "finished", "failed", "stopped"] = Field(
        "none", description="`none`: no build was started; `stopped`: its process ended without a word"
    )
    title: str = ""
    steps: list[BuildStep] = Field(default=[], description="in their order")
    tasks: list[BuildTask] = Field(default=[], description="what the running step does now")
    message: str = Field("", description="the last thing the build said, or its error")
    seconds: float = Field(0, description="since the build began")
    updated: float = Field(0, description="when this was written, in seconds since 1970")
    dictionaries: list[str] = Field(default=[], description="`model/source` of what can be browsed already")
