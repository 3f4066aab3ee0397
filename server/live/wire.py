"""What crosses the worker's socket: jobs in, with every name and path already resolved; `Steer*` events of `lexiscope.records` out.

`POST /steer` takes a SteerJob and answers one JSON event a line: `resolved`, then a `step` a token with one `effect` after the first,
then `done` or `error`. What is wrong before the first event is an ErrorRecord with its status instead. `GET /healthz` answers Health.
"""

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from lexiscope.records import FeatureRef, Record, SteerDone, SteerEffect, SteerError, SteerResolved, SteerStep

Event = Annotated[SteerResolved | SteerStep | SteerEffect | SteerDone | SteerError, Field(discriminator="event")]
EVENT: TypeAdapter[Event] = TypeAdapter(Event)


class Intervention(Record):
    """One feature and what is done to it. Its layer and index stand in `feature`."""

    feature: FeatureRef
    checkpoint_path: str
    mode: Literal["add", "ablate"]
    strength: float = Field(0.0, allow_inf_nan=False, description="fraction of the layer's mean residual norm; ignored by ablate")


class SteerJob(Record):
    """A steer with nothing left to look up."""

    model: str
    model_path: str
    interventions: list[Intervention]
    prompt: str
    max_tokens: int = Field(ge=1)
    temperature: float = Field(ge=0, allow_inf_nan=False)
    seed: int


class Health(Record):
    ok: Literal[True] = True
    running: bool
    waiting: int
    queue: int = Field(description="jobs that may wait before 429")
    served: int = Field(description="jobs begun since the worker started")
    tokens_per_second: float = Field(description="of the last generation, both rows counted; 0 before the first")
    models: list[str] = Field(description="paths of the models in memory")
