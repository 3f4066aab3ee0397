"""The records of the live model: what a steer, a sweep and a reading are asked with, and what they answer.

A steer answers as a stream of events: `resolved`, then a `step` a token with one `effect` after the first,
then `measured` and `done`; `error` ends it at any place. A position is counted from 0 at the prompt's first
token (BOS before it is never touched or read); generated tokens go on counting.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, StrictInt, model_validator

from lexiscope.records import FeatureRef, Record, ScoredToken, Token

Mode = Literal["add", "orthogonal", "clamp", "scale", "ablate", "swap"]
Unit = Literal["norm", "max", "activation", "factor"]
Part = Literal["all", "prompt", "generated"]
ControlKind = Literal["embedding", "random", "plain"]

UNITS: dict[Mode, tuple[Unit, ...]] = {
    "add": ("norm",),
    "orthogonal": ("norm",),
    "clamp": ("max", "activation"),
    "scale": ("factor",),
    "ablate": ("factor",),
    "swap": ("factor",),
}
"""the units of each mode's strength, the default first"""
STRENGTH: dict[Mode, float] = {
    "add": 0.5,
    "orthogonal": 0.5,
    "clamp": 1.0,
    "scale": 2.0,
    "ablate": 0.0,
    "swap": 1.0,
}
"""where none is given"""
MAX_STRENGTH, MAX_ACTIVATION = 10.0, 100_000.0
TYPICAL, OFF_MANIFOLD = 0.5, 1.0
"""fractions of the mean residual norm: where typical additions begin, and where the model leaves what it has
seen
"""

Strength = Annotated[float, Field(allow_inf_nan=False, ge=-MAX_ACTIVATION, le=MAX_ACTIVATION)]


class FeatureChoice(Record):
    """A feature by `id`, or by the `token` that names it (its text with its space, or its id) and the
    `layer`.
    """

    id: Annotated[str, Field(max_length=500)] | None = Field(None, description="model/source/index")
    token: StrictInt | Annotated[str, Field(max_length=200)] | None = Field(
        None, description="a token's text (exact, with its space) or its id"
    )
    layer: int | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.id is None) == (self.token is None):
            raise ValueError(
                "name each feature either by `id` (model/source/index) or by `token`, with a `layer`"
            )
        return self


class SteerFeature(FeatureChoice):
    """One intervention: x' = x + Δ at the feature's layer, what the dictionary does not explain left as it
    is.
    """

    mode: Mode = Field(
        "add",
        description="add: along the direction; orthogonal: the same, the norm kept; clamp: set the activation; "
        "scale: multiply it; ablate: take it away; swap: give it to the feature `to`",
    )
    strength: Strength | None = Field(
        None,
        description="add, orthogonal: fraction of the layer's mean residual norm (0.5); clamp: in `unit` (1); "
        "scale: factor of the activation (2); swap: factor of what is handed on (1); ablate: ignored",
    )
    unit: Unit | None = Field(
        None,
        description="of a clamp's strength: max (multiples of the feature's maximum, the default) or activation",
    )
    to: FeatureChoice | None = Field(None, description="swap: the feature that takes over")
    where: Part = Field(
        "all",
        description="prompt: on its tokens; generated: on the tokens written, so from the second one on",
    )
    positions: list[Annotated[int, Field(ge=0, lt=1_000_000)]] | None = Field(
        None, min_length=1, max_length=1024, description="only there, whatever `where` says"
    )
    when: FeatureChoice | None = Field(
        None, description="only where this feature fires, of the same or an earlier layer"
    )

    @model_validator(mode="after")
    def _fits_its_mode(self) -> Self:
        if self.unit is not None and self.unit not in UNITS[self.mode]:
            raise ValueError(
                f"the strength of {self.mode} is given in {' or '.join(UNITS[self.mode])}, not in {self.unit}"
            )
        if (self.to is not None) != (self.mode == "swap"):
            raise ValueError("swap needs `to`, the feature that takes over; no other mode has one")
        if self.strength is not None and self.unit != "activation" and abs(self.strength) > MAX_STRENGTH:
            raise ValueError(
                f"strength {self.strength:g} is beyond ±{MAX_STRENGTH:g} (above ±{OFF_MANIFOLD:g} is off the manifold already)"
            )
        return self


class Sampling(Record):
    """How tokens are drawn. Both rows use the same random numbers."""

    max_tokens: int = Field(48, ge=1, le=256)
    temperature: float = Field(
        0.8, ge=0, le=5, allow_inf_nan=False, description="0 takes the likeliest token"
    )
    top_k: int = Field(0, ge=0, le=1_000_000, description="draw among the k likeliest tokens; 0: among all")
    top_p: float = Field(
        1.0, gt=0, le=1, description="draw among the likeliest tokens that hold this share of the probability"
    )
    frequency_penalty: float = Field(
        0.0,
        ge=-2,
        le=2,
        allow_inf_nan=False,
        description="taken off a token's logit for each time the row has written it",
    )
    stop: list[Annotated[str, Field(min_length=1, max_length=200)]] = Field(
        [], max_length=8, description="a row ends before the first of these texts"
    )
    seed: int = Field(0, ge=-(2**63), lt=2**63)


class SteerRequest(Sampling):
    model: str = Field(max_length=200)
    prompt: str = Field(min_length=1, max_length=20_000)
    features: list[SteerFeature] = Field(min_length=1, max_length=32)
    top_logprobs: int = Field(5, ge=0, le=20, description="alternatives given with each new token")
    controls: bool = Field(
        False, description="also measure the same change along other directions; an effect must beat them"
    )


class SweepRequest(Sampling):
    """The same steer at several strengths, as rows of one batch."""

    model: str = Field(max_length=200)
    prompt: str = Field(min_length=1, max_length=20_000)
    features: list[SteerFeature] = Field(min_length=1, max_length=32)
    strengths: list[Strength] = Field(
        [-1.0, -0.5, 0.125, 0.25, 0.5, 0.75, 1.0, 1.5],
        min_length=1,
        max_length=16,
        description="each is set as the strength of every intervention, in the unit of its mode",
    )
    max_tokens: int = Field(32, ge=1, le=256)

    @model_validator(mode="after")
    def _can_be_swept(self) -> Self:
        units = {(one.mode, one.unit) for one in self.features}
        if len(units) > 1 or self.features[0].mode == "ablate":
            raise ValueError(
                "a sweep needs interventions of one mode and unit, of a mode that has a strength (not ablate)"
            )
        if self.features[0].unit != "activation" and max(map(abs, self.strengths)) > MAX_STRENGTH:
            raise ValueError(f"strengths go from -{MAX_STRENGTH:g} to {MAX_STRENGTH:g}")
        return self


class ReadRequest(Record):
    """Texts to read: one, or two to tell apart."""

    model: str = Field(max_length=200)
    text: str = Field(min_length=1, max_length=20_000)
    contrast: Annotated[str, Field(min_length=1, max_length=20_000)] | None = Field(
        None, description="a second text to tell apart from the first"
    )
    sources: list[Annotated[str, Field(max_length=200)]] = Field(
        [], max_length=64, description="dictionaries to read with; empty: the one set that covers most layers"
    )
    subtract_mean: bool = Field(
        True, description="the table shows what stands out of the text's own mean code (arXiv 2606.27941)"
    )
    min_cosine: float = Field(
        0.0, ge=-1, le=1, description="the table leaves out names whose cosine is lower"
    )
    feature: Annotated[str, Field(max_length=500)] | None = Field(
        None, description="one feature to follow through the text, firing or not"
    )
    top: int = Field(
        20, ge=1, le=100, description="features listed for the whole text, and on each side of a contrast"
    )


# --- what a steer answers ---


class Meant(Record):
    """Which feature a request meant, and the others that carry the same name (best-evidenced first)."""

    feature: FeatureRef
    others: list[FeatureRef] = Field([])


class SteerResolved(Record):
    """First event: which features the request meant."""

    event: Literal["resolved"] = "resolved"
    features: list[FeatureRef]
    meant: list[Meant] = Field(
        [], description="one an intervention: its feature, and the others of the name it was asked by"
    )
    prompt_tokens: list[Token]


class Generated(Record):
    """One new token of one row, as the stream carries it."""

    token: Token
    text: str = Field(
        description="new text since the last event; a character split over tokens arrives whole"
    )
    logprob: float = Field(description="the row's own, before temperature, penalty and cuts")
    top: list[ScoredToken] = Field([], description="the likeliest tokens there with their log-probabilities")


class SteerStep(Record):
    event: Literal["step"] = "step"
    default: Generated | None
    steered: Generated | None


class NamedEffect(Record):
    """What the steer did to a named token at the first generated position. Rank 0 is the likeliest."""

    feature: FeatureRef
    mode: str
    strength: float
    probability_default: float
    probability_steered: float
    rank_default: int
    rank_steered: int


class SteerEffect(Record):
    event: Literal["effect"] = "effect"
    kl_first: float = Field(description="KL(steered ‖ default) at the first generated position, nats")
    effects: list[NamedEffect]


class NamedRun(Record):
    """A named token over the whole run: means over the positions of the default row's text, as each model
    would go on there.
    """

    feature: FeatureRef
    probability_default: float
    probability_steered: float
    rank_default: float = Field(description="median")
    rank_steered: float
    beats_controls: bool | None = Field(
        None,
        description="the probability moves the way it was asked to, and further than under every control; absent without controls",
    )


class ControlNamed(Record):
    feature: FeatureRef
    probability_first: float
    probability: float = Field(description="mean over the run, as in NamedRun")
    rank: float


class Control(Record):
    """The same change, equally long at every position, along another direction."""

    kind: ControlKind = Field(
        description="embedding: the name's row of W_E; random: a feature of equal density; plain: the plain dictionary's nearest"
    )
    features: list[FeatureRef] = Field(
        description="whose direction was used, one an intervention; empty for the embedding"
    )
    kl: float = Field(description="KL(control ‖ default), mean over the run")
    named: list[ControlNamed]


class Moved(FeatureRef):
    """Another feature's mean activation over the default row's generated positions, in the two models."""

    default: float
    steered: float


class SteerMeasured(Record):
    """What the steer did over the whole run, read in one pass over the finished texts, each token given
    (teacher-forced).
    """

    event: Literal["measured"] = "measured"
    kl: list[float] = Field(
        description="KL(steered ‖ default) at each position of the steered row's own text, nats"
    )
    kl_mean: float = Field(description="mean of `kl`")
    kl_default_text: float = Field(
        description="mean KL(steered ‖ default) over the default row's text, which the controls are measured on"
    )
    perplexity_default: float = Field(description="of the default row's text under the unsteered model")
    perplexity_steered: float = Field(description="of the steered row's text under the unsteered model")
    named: list[NamedRun]
    controls: list[Control] = Field([])
    controls_missing: list[str] = Field([], description="controls that could not be made, and why")
    moved_source: str = Field("", description="the dictionary that `rose` and `fell` were read with")
    rose: list[Moved] = Field([])
    fell: list[Moved] = Field([])


class SteerDone(Record):
    """Last event; `default_text` and `steered_text` are whole."""

    event: Literal["done"] = "done"
    default_text: str
    steered_text: str
    default_end: Literal["length", "stop", "end"] = Field(
        "length", description="why the row ended: as asked, at a stop text, at the end of text"
    )
    steered_end: Literal["length", "stop", "end"] = "length"
    tokens_per_second: float


class SteerError(Record):
    event: Literal["error"] = "error"
    status: int
    error: str


class SteerAnswer(Record):
    """A whole steer at once: the stream's events but the steps."""

    resolved: SteerResolved
    effect: SteerEffect
    measured: SteerMeasured
    done: SteerDone


# --- what a sweep answers ---


class SweepNamed(Record):
    feature: FeatureRef
    probability_first: float
    probability: float = Field(description="mean over the positions of the default row's text")
    rank_first: int


class SweepPoint(Record):
    strength: float
    named: list[SweepNamed]
    kl_first: float
    kl: float = Field(description="mean KL(steered ‖ default) over this row's own text, nats")
    perplexity: float = Field(description="of this row's text under the unsteered model")
    distinct: float = Field(
        description="distinct tokens over tokens written: a row that repeats itself is low"
    )
    text: str


class SteerSwept(Record):
    """A dose-response curve; `default` is strength 0, the unsteered row of the same batch."""

    event: Literal["swept"] = "swept"
    unit: Unit
    default: SweepPoint
    points: list[SweepPoint]
    sweet_spot: float | None = Field(None, description="a strength of `points`; see `rule`")
    rule: str


class SweepAnswer(Record):
    resolved: SteerResolved
    swept: SteerSwept


# --- what a reading answers ---


class Firing(FeatureRef):
    """A feature where it fires. `value` is the activation, or what the field that holds it says."""

    value: float


class Fired(Record):
    """One firing of one token: the feature stands in the layer's `features`, at place `feature`."""

    feature: int
    value: float


class ReadToken(Record):
    """One position read by one dictionary."""

    error: float = Field(description="‖x − x̂‖ / ‖x‖: what the dictionary leaves unexplained")
    dense: float = Field(description="‖dense path‖ / ‖x‖: what goes through no named feature")
    fired: list[Fired] = Field(description="every firing feature, strongest first")
    best: Fired | None = Field(
        None,
        description="the table's cell: the top one after the mean code was subtracted, or raw; value accordingly",
    )


class ReadLayer(Record):
    """One dictionary's reading of one text."""

    source: str
    layer: int
    recipe: str
    features: list[FeatureRef] = Field(description="every feature that fires in the text")
    tokens: list[ReadToken]
    error: float = Field(description="mean of the tokens'")


class Summed(FeatureRef):
    """A feature over a whole text."""

    value: float = Field(description="mean activation over the text's tokens")
    share: float = Field(description="share of the text's tokens on which it fires")


class ReadText(Record):
    """One text through the dictionaries."""

    tokens: list[Token]
    layers: list[ReadLayer]
    top: dict[str, list[Summed]] = Field(
        description="source → features with the highest mean activation in the whole text"
    )


class Contrast(FeatureRef):
    """A feature that tells two texts apart."""

    difference: float = Field(
        description="mean activation in the first text minus in the second, over the larger of the two texts' maxima"
    )
    first: float = Field(description="mean activation in the first text")
    second: float
    share_first: float = Field(description="share of its tokens on which it fires")
    share_second: float


class Followed(Record):
    """One feature through each text: its activation at each token, 0 where it is silent."""

    feature: FeatureRef
    values: list[list[float]] = Field(description="one list a text")
    max_activation: float = Field(description="the highest on the indexed corpus")


class ReadAnswer(Record):
    """`/read`"""

    model: str
    subtract_mean: bool
    texts: list[ReadText]
    contrast: dict[str, list[Contrast]] = Field(
        {}, description="source → features that tell the texts apart, the first text's first"
    )
    followed: Followed | None = None


class WorkerHealth(Record):
    """The model worker's state."""

    ok: Literal[True] = True
    running: int = Field(description="requests under way")
    waiting: int = Field(description="requests in the queue")
    queue: int = Field(description="requests that may wait before 429")
    served: int = Field(description="requests begun since the worker started")
    tokens_per_second: float = Field(
        description="tokens written in the last ten seconds of work, all rows counted, a second; 0 before the first"
    )
    models: list[str] = Field(description="paths of the models in memory")
    memory_bytes: int = Field(0, description="weights held by them and by the dictionaries")
    device: str = "cpu"
