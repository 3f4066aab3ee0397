"""Messages between the web server and the model worker: jobs, and events that refer to features by id.

`POST /steer`, `/sweep`, `/read`, `/similar` and `/match` take a job, in which all names and paths are
resolved, and respond with one JSON event a line; the last is `done`, `swept`, `read`, `similar`, `matched` or
`error`. A job that is rejected before its first event gets an ErrorRecord with its status instead. `GET
/healthz` responds with WorkerHealth. The web server adds the names of features that the worker found
(`server.attach_names`).
"""

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from lexiscope.records import FeatureRef, Record, Token
from lexiscope.records.live import (
    ControlEffect,
    ControlKind,
    RunEffect,
    SteerDone,
    SteerEffect,
    SteerError,
    SteerResolved,
    SteerStep,
    SweepCurve,
)
from lexiscope.records.requests import Mode, PositionRange, Sampling, Unit


class DictionaryPath(Record):
    """One dictionary: the layer it reads and its checkpoint."""

    source: str
    layer: int
    checkpoint_path: str = Field(min_length=1)
    identity: str = Field("", description="of the weights that were indexed; empty if it is not recorded")
    mean_norm: float | None = Field(
        None,
        description="the layer's mean residual norm from the index; a value in the checkpoint overrides it",
    )


class LocatedFeature(Record):
    """A feature and the checkpoint of its dictionary. Layer and index are in `feature`."""

    feature: FeatureRef
    checkpoint_path: str = Field(min_length=1)
    identity: str = Field("", description="as in DictionaryPath")
    mean_norm: float | None = Field(None, description="as in DictionaryPath")
    max_activation: float | None = Field(
        None, description="on the indexed text; required by a clamp in multiples of the maximum"
    )
    lens_path: str = Field(
        "", description="where the layer's Jacobian lens is kept; required by a direction that it gives"
    )
    token: Token | None = Field(
        None, description="the token that its effect is judged on; null: its nearest anchor"
    )

    @property
    def watched(self) -> Token:
        """The token whose probability the feature should change."""
        return self.token or self.feature.name


class Intervention(LocatedFeature):
    """One feature and the change to make (see `lexiscope.records.requests.SteerFeature`)."""

    mode: Mode | Literal["component"] = Field(
        description="as in a request; component sets x's component along the feature's direction, to "
        "`strength` of its activation's"
    )
    strength: float = Field(0.0, allow_inf_nan=False)
    unit: Unit = "norm"
    to: LocatedFeature | None = None
    where: PositionRange = "all"
    positions: list[int] | None = None
    when: LocatedFeature | None = None

    @property
    def written(self) -> LocatedFeature:
        """The feature whose direction is written: the feature itself, or the target of a swap."""
        return self.to or self


class ControlSources(Record):
    """The features and dictionaries that control directions are taken from; the embedding control needs
    none.
    """

    random: list[list[FeatureRef]] = Field(
        [],
        description="for each random control, one feature for each intervention, of the same dictionary "
        "and of similar density",
    )
    plain: list[DictionaryPath] = Field(
        [], description="the plain dictionary at each intervention's layer; empty if any layer has none"
    )


SPELLED_BOS = "a text that begins with BOS, spelled out, is read without it: one BOS is always added"


class SteerJob(Sampling):
    """A SteerRequest with names and paths resolved."""

    model: str
    model_path: str = Field(min_length=1)
    model_identity: str = Field("", description="of the model that was indexed; empty if it is not recorded")
    interventions: list[Intervention]
    prompt: str
    chat: bool = False
    spelled_bos: bool = Field(False, description=SPELLED_BOS)
    k: int | None = None
    top_logprobs: int = 5
    controls: ControlSources | None = None
    moved: DictionaryPath | None = Field(
        None, description="the dictionary that measures changes of other features"
    )


class SweepJob(Sampling):
    """A SweepRequest with names and paths resolved."""

    model: str
    model_path: str = Field(min_length=1)
    model_identity: str = Field("", description="of the model that was indexed; empty if it is not recorded")
    interventions: list[Intervention]
    prompt: str
    chat: bool = False
    k: int | None = None
    strengths: list[float]
    controls: ControlSources | None = None


class ReadJob(Record):
    """A ReadRequest with names and paths resolved."""

    model: str
    model_path: str = Field(min_length=1)
    model_identity: str = Field("", description="of the model that was indexed; empty if it is not recorded")
    texts: list[str]
    chat: bool = False
    spelled_bos: bool = Field(False, description=SPELLED_BOS)
    sources: list[DictionaryPath]
    follow: LocatedFeature | None = None
    k: int | None = None


class SimilarJob(Record):
    """Which features of a dictionary have the directions nearest to a feature's."""

    feature: LocatedFeature
    source: DictionaryPath
    limit: int


class MatchJob(Record):
    """Features of one dictionary to match by direction with those of another."""

    left: DictionaryPath
    right: DictionaryPath
    indices: list[int] = Field(description="features of `left`")
    random: int = Field(
        0, description="random directions of the left directions' covariance to match as well: chance"
    )


Job = SteerJob | SweepJob | ReadJob | SimilarJob | MatchJob
ModelJob = SteerJob | SweepJob | ReadJob
"""the jobs that run the language model"""
PATHS: dict[type[Job], str] = {
    SteerJob: "/steer",
    SweepJob: "/sweep",
    ReadJob: "/read",
    SimilarJob: "/similar",
    MatchJob: "/match",
}


# --- events that refer to features by id ---


class RawControl(Record):
    """Control without the features' names."""

    kind: ControlKind
    feature_ids: list[str]
    kl: float
    named: list[ControlEffect]


class RawActivationChange(Record):
    """ActivationChange without the feature's name."""

    id: str
    default: float
    steered: float


class RawSteerMeasured(Record):
    """SteerMeasured without the names of the features that the worker found."""

    event: Literal["measured"] = "measured"
    kl: list[float]
    kl_mean: float
    kl_default_text: float
    perplexity_default: float
    perplexity_steered: float
    named: list[RunEffect]
    controls: list[RawControl]
    controls_missing: list[str]
    moved_source: str
    rose: list[RawActivationChange]
    fell: list[RawActivationChange]


class RawReadTokens(Record):
    """First event of a reading: the tokens of each text."""

    event: Literal["tokens"] = "tokens"
    bos: Token = Field(description="before each text; it is not among `texts`, and not read")
    texts: list[list[Token]]
    notes: list[str] = Field([])


class RawReadLayer(Record):
    """One text encoded by one dictionary, one entry for each position."""

    event: Literal["reading"] = "reading"
    text: int
    source: str
    indices: list[list[int]] = Field(description="active features of each position, highest activation first")
    values: list[list[float]]
    error: list[float]
    dense: list[float]


class RawReadDone(Record):
    """Last event of a reading."""

    event: Literal["read"] = "read"
    followed: list[list[float]] | None = None


class RawSimilar(Record):
    """Last event of a SimilarJob: features by the cosine of their directions, highest first."""

    event: Literal["similar"] = "similar"
    indices: list[int]
    cosines: list[float]


class RawMatches(Record):
    """Last event of a MatchJob: the nearest right feature of each left one."""

    event: Literal["matched"] = "matched"
    nearest: list[int]
    cosines: list[float]
    random_cosines: list[float] = Field(description="largest cosines of the random directions")


Event = Annotated[
    SteerResolved
    | SteerStep
    | SteerEffect
    | RawSteerMeasured
    | SteerDone
    | SweepCurve
    | RawReadTokens
    | RawReadLayer
    | RawReadDone
    | RawSimilar
    | RawMatches
    | SteerError,
    Field(discriminator="event"),
]
EVENT: TypeAdapter[Event] = TypeAdapter(Event)
LAST_EVENTS = frozenset({"done", "swept", "read", "similar", "matched", "error"})
"""events that end a stream"""
