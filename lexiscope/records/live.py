"""The responses of the live model: events of a steer, the curve of a sweep, the reading of a text.

A steer responds with a stream of events: `resolved`, then one `step` a token with one `effect` after the
first step, then `measured` and `done`. An `error` event may end the stream at any point.
"""

from typing import Annotated, Literal

from pydantic import Field

from lexiscope.records.feature import FeatureRef, RaisedBy
from lexiscope.records.record import ErrorRecord, Record, ScoredToken, Token
from lexiscope.records.requests import Unit

ControlKind = Literal["embedding", "random", "plain"]
RowEnd = Literal["length", "stop", "end"]
WATCHED = (
    "whose probability is followed: the token that the feature was selected for; for an id, the first token "
    "that it writes, where steering confirmed that, else its nearest anchor"
)


# --- steer ---


class ResolvedFeature(Record):
    """The feature that a request selected, why, and what else there is for its token."""

    feature: FeatureRef
    by: Literal["id", "intervention", "write list", "what it fires on", "nearest anchor"] = Field(
        "id",
        description="how it was selected. For a token that is to be written: of what was steered and raised "
        "the token above every control, the direction that raised it most; else the feature whose write list "
        "holds it highest; else its row of a look-up, or by its nearest anchor. For a token that a condition "
        "or the feature to swap "
        "needs: a feature that fires on it",
    )
    token: Token | None = Field(
        None,
        description="the token that it was selected for; of an id, the one that its effect is judged on: "
        "what steering it raised most above its controls, else the first of its write list, else its nearest "
        "anchor",
    )
    sure: str = Field("", description="how sure the selection is, or the token of an id, as a sentence")
    measured: RaisedBy | None = Field(
        None, description="how far it raises the token, where that was measured"
    )
    stronger: list[RaisedBy] = Field(
        [], description="directions that were measured to raise the token more, the strongest first"
    )
    others: list[FeatureRef] = Field(
        [], description="other features for the token, best first; of an id, none"
    )


class SteerResolved(Record):
    """First event: the features that the request selected."""

    event: Literal["resolved"] = "resolved"
    features: list[FeatureRef]
    meant: list[ResolvedFeature] = Field(
        [],
        description="for each intervention, its feature and the other features of the name it was given by",
    )
    prompt_tokens: list[Token]
    notes: list[str] = Field([], description="how the text was read, where that may surprise")


class GeneratedToken(Record):
    """One generated token of one row."""

    token: Token
    text: str = Field(
        description="text added since the last event; a character made of several tokens comes with the last"
    )
    logprob: float = Field(description="log-probability before temperature, penalty, top k and top p")
    top: list[ScoredToken] = Field([], description="the most likely tokens there and their log-probabilities")


class SteerStep(Record):
    """The next token of each row; null for a row that has ended."""

    event: Literal["step"] = "step"
    default: GeneratedToken | None
    steered: GeneratedToken | None


class FirstTokenEffect(Record):
    """Effect on the probability of a feature's token at the first generated position. Rank 0 is the most
    likely token.
    """

    feature: FeatureRef
    token: Token = Field(description=WATCHED)
    mode: str
    strength: float
    probability_default: float
    probability_steered: float
    rank_default: int
    rank_steered: int


class SteerEffect(Record):
    """Effect at the first generated position."""

    event: Literal["effect"] = "effect"
    kl_first: float = Field(description="KL(steered ‖ default) at the first generated position, nats")
    effects: list[FirstTokenEffect]


class RunEffect(Record):
    """Effect on the probability of a feature's token over the whole run: means over the positions of the
    default row's text, under each model.
    """

    feature: FeatureRef
    token: Token = Field(description=WATCHED)
    probability_default: float
    probability_steered: float
    rank_default: float = Field(description="median")
    rank_steered: float = Field(description="median")
    beats_controls: bool | None = Field(
        None,
        description="whether the probability changes in the direction requested, and by more than under "
        "every control and more than rounding; absent without controls",
    )


class ControlEffect(Record):
    """Effect of a control on the probability of a feature's token."""

    feature: FeatureRef
    token: Token = Field(description=WATCHED)
    probability_first: float = Field(description="at the first generated position")
    probability: float = Field(description="mean over the run, as in RunEffect")
    rank: float = Field(description="median over the run")


class Control(Record):
    """A change of the same length at every position, along another direction."""

    kind: ControlKind = Field(
        description="embedding: the token's row of W_E; random: a feature of similar density; "
        "plain: the nearest feature of the plain dictionary"
    )
    features: list[FeatureRef] = Field(
        description="the features whose directions were used, one for each intervention; empty for the "
        "embedding"
    )
    kl: float = Field(description="KL(control ‖ default), mean over the run, nats")
    named: list[ControlEffect]


class ActivationChange(FeatureRef):
    """Mean activation of another feature over the default row's generated positions, in both models."""

    default: float
    steered: float


class SteerMeasured(Record):
    """Effects over the whole run, measured in one teacher-forced pass over the finished texts."""

    event: Literal["measured"] = "measured"
    kl: list[float] = Field(
        description="KL(steered ‖ default) at each position of the steered row's own text, nats"
    )
    kl_mean: float = Field(description="mean of `kl`")
    kl_default_text: float = Field(
        description="mean KL(steered ‖ default) over the default row's text, as for the controls"
    )
    perplexity_default: float = Field(description="of the default row's text under the unsteered model")
    perplexity_steered: float = Field(description="of the steered row's text under the unsteered model")
    named: list[RunEffect]
    controls: list[Control] = Field([])
    controls_missing: list[str] = Field([], description="controls that could not be made, with the reason")
    moved_source: str = Field("", description="the dictionary used for `rose` and `fell`")
    rose: list[ActivationChange] = Field([], description="features whose mean activation rose most")
    fell: list[ActivationChange] = Field([], description="features whose mean activation fell most")


class SteerDone(Record):
    """Last event, with both complete texts."""

    event: Literal["done"] = "done"
    default_text: str
    steered_text: str
    default_end: RowEnd = Field(
        "length", description="why the row ended: at max_tokens, before a stop text, at the end-of-text token"
    )
    steered_end: RowEnd = "length"
    tokens_per_second: float


class SteerError(ErrorRecord):
    """Last event of a request that failed."""

    event: Literal["error"] = "error"


SteerEvent = Annotated[
    SteerResolved | SteerStep | SteerEffect | SteerMeasured | SteerDone | SteerError,
    Field(discriminator="event"),
]
"""What a steer streams."""


class SteerResponse(Record):
    """The events of a steer in one response, without the steps."""

    resolved: SteerResolved
    effect: SteerEffect
    measured: SteerMeasured
    done: SteerDone


# --- sweep ---


class SweepEffect(Record):
    """Effect of one strength on the probability of a feature's token."""

    feature: FeatureRef
    token: Token = Field(description=WATCHED)
    probability_first: float = Field(description="at the first generated position")
    probability: float = Field(description="mean over the positions of the default row's text")
    rank_first: int = Field(description="at the first generated position; 0 is the most likely token")


class SweepControl(Record):
    """A change of the same length along another direction, at one strength of a sweep."""

    kind: ControlKind
    probabilities: list[float] = Field(
        description="for each of the point's `named`, the mean over the positions of the default row's text"
    )


class SweepPoint(Record):
    """One strength of a sweep."""

    strength: float
    named: list[SweepEffect]
    kl_first: float = Field(description="KL(steered ‖ default) at the first generated position, nats")
    kl: float = Field(description="mean KL(steered ‖ default) over this row's own text, nats")
    perplexity: float = Field(description="of this row's text under the unsteered model")
    distinct: float = Field(
        description="distinct tokens divided by generated tokens; low for repetitive text"
    )
    text: str
    controls: list[SweepControl] = Field([], description="empty without controls, and for the unsteered row")
    beats_controls: bool | None = Field(
        None,
        description="whether every name's probability changes in the direction requested, and by more than "
        "under every control and more than rounding; absent without controls",
    )


class SweepCurve(Record):
    """A dose-response curve. `default` is the unsteered row, which a strength of 0 equals exactly."""

    event: Literal["swept"] = "swept"
    unit: Unit
    default: SweepPoint
    points: list[SweepPoint]
    sweet_spot: float | None = Field(None, description="the strength of `points` selected by `rule`")
    rule: str = Field(description="how the sweet spot is selected")


class SweepResponse(Record):
    """A dose-response curve and the features it is about."""

    resolved: SteerResolved
    swept: SweepCurve


# --- read ---


class TokenFiring(Record):
    """One feature that is active on one token."""

    feature: int = Field(description="index into the layer's `features`")
    value: float = Field(description="its activation, or the value that the containing field describes")


class ReadToken(Record):
    """One token encoded by one dictionary."""

    error: float = Field(description="‖x − x̂‖ / ‖x‖: the part that the dictionary does not reconstruct")
    dense: float = Field(description="‖dense path‖ / ‖x‖: the part that goes through no named feature")
    fired: list[TokenFiring] = Field(
        description="all active features, highest activation first; empty where they were not requested"
    )
    best: TokenFiring | None = Field(
        None,
        description="the table's cell: the feature with the highest activation after the mean code was "
        "subtracted (or without subtraction), with that value",
    )


class ReadLayer(Record):
    """One text encoded by one dictionary."""

    source: str
    layer: int
    recipe: str
    features: list[FeatureRef] = Field(description="the features that `tokens` refers to")
    tokens: list[ReadToken]
    error: float = Field(description="mean of the tokens' errors")


class MeanActivation(FeatureRef):
    """One feature over a whole text."""

    value: float = Field(description="mean activation over the text's tokens")
    token_share: float = Field(description="share of the text's tokens on which it is active")


class ReadText(Record):
    """One text encoded by the dictionaries."""

    tokens: list[Token]
    layers: list[ReadLayer]
    top: dict[str, list[MeanActivation]] = Field(
        description="for each source, the features with the highest mean activation in the text"
    )


class ContrastFeature(FeatureRef):
    """One feature whose mean activation differs between two texts."""

    difference: float = Field(
        description="mean activation in the first text minus mean activation in the second, divided by the "
        "maximum activation in either text"
    )
    first: float = Field(description="mean activation in the first text")
    second: float = Field(description="mean activation in the second text")
    share_first: float = Field(description="share of the first text's tokens on which it is active")
    share_second: float = Field(description="share of the second text's tokens on which it is active")


class FollowedFeature(Record):
    """The activation of one feature at every token of each text, 0 where it is not active."""

    feature: FeatureRef
    values: list[list[float]] = Field(description="one list for each text")
    max_activation: float = Field(description="highest activation on the indexed text")


class ReadResponse(Record):
    """Texts encoded by dictionaries, with the features' names."""

    model: str
    subtract_mean: bool
    texts: list[ReadText]
    contrast: dict[str, list[ContrastFeature]] = Field(
        {},
        description="for each source, the features that differ most between the texts; those higher in the "
        "first text come first",
    )
    followed: FollowedFeature | None = None
    notes: list[str] = Field([], description="how the text was read, where that may surprise")


# --- worker ---


class WorkerHealth(Record):
    """The state of the model worker."""

    ok: Literal[True] = True
    running: int = Field(description="requests in progress")
    waiting: int = Field(description="requests in the queue")
    queue: int = Field(description="capacity of the queue; beyond it requests get status 429")
    served: int = Field(description="requests started since the worker started")
    tokens_per_second: float = Field(
        description="generated tokens of all rows per second, over the last ten seconds of work; 0 before "
        "the first request"
    )
    models: list[str] = Field(description="ids of the models in memory")
    memory_bytes: int = Field(0, description="size of the weights of models and dictionaries in memory")
    device: str = "cpu"
