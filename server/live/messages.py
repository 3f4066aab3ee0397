"""What crosses the worker's socket: jobs in, with every name and path already resolved; events out, with
features by id alone.

`POST /steer`, `/sweep` and `/read` take a job and answer one JSON event a line, `done`, `swept`, `read` or
`error` last. What is wrong before the first event is an ErrorRecord with its status instead. `GET /healthz`
answers WorkerHealth. The web server puts the names to features that the worker found (`server.attach_names`).
"""

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from lexiscope.records import FeatureRef, Record, Token
from server.live.records import (
    ControlKind,
    ControlNamed,
    Mode,
    NamedRun,
    Part,
    Sampling,
    SteerDone,
    SteerEffect,
    SteerError,
    SteerResolved,
    SteerStep,
    SteerSwept,
    Unit,
    WorkerHealth,
)


class Source(Record):
    """One dictionary and what it reads."""

    source: str
    layer: int
    checkpoint_path: str
    mean_norm: float | None = Field(
        None, description="the layer's mean residual norm, where the checkpoint itself does not say"
    )


class Located(Record):
    """A feature with the dictionary it lives in. Layer and index stand in `feature`."""

    feature: FeatureRef
    checkpoint_path: str
    mean_norm: float | None = Field(None, description="as in Source")
    max_activation: float | None = Field(
        None, description="on the indexed text; what a clamp in multiples of the maximum needs"
    )


class Intervention(Located):
    """One feature and what is done to it (server.live.records.SteerFeature)."""

    mode: Mode
    strength: float = Field(0.0, allow_inf_nan=False)
    unit: Unit = "norm"
    to: Located | None = None
    where: Part = "all"
    positions: list[int] | None = None
    when: Located | None = None

    @property
    def pushed(self) -> Located:
        """The feature whose direction is written; for a swap the one that takes over."""
        return self.to or self


class Controls(Record):
    """What the controls are made of; the embedding needs nothing."""

    random: list[list[FeatureRef]] = Field(
        [], description="each: a feature of equal density for every intervention, of its dictionary"
    )
    plain: list[Source] = Field(
        [], description="the plain dictionary at each intervention's layer; empty where one is missing"
    )


class SteerJob(Sampling):
    """A steer with nothing left to look up."""

    model: str
    model_path: str
    interventions: list[Intervention]
    prompt: str
    top_logprobs: int = 5
    controls: Controls | None = None
    moved: Source | None = Field(None, description="the dictionary to read what else changed with")


class SweepJob(Sampling):
    model: str
    model_path: str
    interventions: list[Intervention]
    prompt: str
    strengths: list[float]


class ReadJob(Record):
    model: str
    model_path: str
    texts: list[str]
    sources: list[Source]
    follow: Located | None = None


# --- events with features by id alone ---


class RawControl(Record):
    kind: ControlKind
    feature_ids: list[str]
    kl: float
    named: list[ControlNamed]


class RawMoved(Record):
    id: str
    default: float
    steered: float


class RawMeasured(Record):
    """SteerMeasured before the features found by the worker are named."""

    event: Literal["measured"] = "measured"
    kl: list[float]
    kl_mean: float
    kl_default_text: float
    perplexity_default: float
    perplexity_steered: float
    named: list[NamedRun]
    controls: list[RawControl]
    controls_missing: list[str]
    moved_source: str
    rose: list[RawMoved]
    fell: list[RawMoved]


class RawReading(Record):
    """One text through one dictionary, position by position."""

    event: Literal["reading"] = "reading"
    text: int
    source: str
    indices: list[list[int]] = Field(description="firing features of each position, strongest first")
    values: list[list[float]]
    error: list[float]
    dense: list[float]


class RawTokens(Record):
    """First event of a reading."""

    event: Literal["tokens"] = "tokens"
    texts: list[list[Token]]


class RawRead(Record):
    """Last event of a reading."""

    event: Literal["read"] = "read"
    followed: list[list[float]] | None = None


Event = Annotated[
    SteerResolved
    | SteerStep
    | SteerEffect
    | RawMeasured
    | SteerDone
    | SteerSwept
    | RawTokens
    | RawReading
    | RawRead
    | SteerError,
    Field(discriminator="event"),
]
EVENT: TypeAdapter[Event] = TypeAdapter(Event)
LAST = frozenset({"done", "swept", "read", "error"})
"""the events that end a stream"""

Job = SteerJob | SweepJob | ReadJob
PATHS: dict[type[Job], str] = {SteerJob: "/steer", SweepJob: "/sweep", ReadJob: "/read"}

Health = WorkerHealth
