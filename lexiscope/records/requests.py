"""The requests of the live model: a steer, a sweep over strengths, a reading of texts.

A position is counted from 0 at the prompt's first token; generated tokens go on counting. BOS before the
prompt is never changed and never read.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, StrictInt, model_validator

from lexiscope.records.record import Request, example

Mode = Literal["add", "orthogonal", "clamp", "scale", "ablate", "swap"]
Unit = Literal["norm", "max", "activation", "factor"]
PositionRange = Literal["all", "prompt", "generated"]

UNITS: dict[Mode, tuple[Unit, ...]] = {
    "add": ("norm",),
    "orthogonal": ("norm",),
    "clamp": ("max", "activation"),
    "scale": ("factor",),
    "ablate": ("factor",),
    "swap": ("factor",),
}
"""units of each mode's strength, the default first"""
DEFAULT_STRENGTH: dict[Mode, float] = {
    "add": 0.5,
    "orthogonal": 0.5,
    "clamp": 1.0,
    "scale": 2.0,
    "ablate": 0.0,
    "swap": 1.0,
}
MAX_STRENGTH, MAX_ACTIVATION = 10.0, 100_000.0
TYPICAL, OFF_MANIFOLD = 0.5, 1.0
"""fractions of the mean residual norm: the usual size of an addition, and the size beyond which the residual
stream leaves the range the model was trained on
"""

Strength = Annotated[
    float,
    Field(
        allow_inf_nan=False,
        json_schema_extra={"minimum": -MAX_ACTIVATION, "maximum": MAX_ACTIVATION},
    ),
]
"""`check_strength` has the limit of each mode and unit."""
ModelId = Annotated[str, Field(max_length=200)]
FeatureId = Annotated[str, Field(max_length=500)]
ListedId = Annotated[
    str,
    Field(max_length=500, pattern=r"^[^/\\\s]+/[0-9]+-[^/\\\s]+/((token|embedding|jacobian)-)?[0-9]+$"),
]
"""A FeatureId that may not be in the index, and is shown all the same: as the address of a page it leads
nowhere else.
"""
Text = Annotated[str, Field(min_length=1, max_length=20_000)]
CHAT = (
    "read the text as the user's message, by the model's chat template; a text that spells out special "
    "tokens is read as those tokens"
)


class FeatureChoice(Request):
    """A feature, given by its `id` or by the `token` that names it; a token may be given with a `layer`."""

    id: FeatureId | None = Field(
        None,
        description="model/source/index; or the direction of a token at that dictionary's layer, which can "
        "be added and nothing else: its row of the look-up (model/source/token-<id>), its raw embedding "
        "(embedding-<id>), or its direction by the Jacobian lens (jacobian-<id>)",
    )
    token: StrictInt | Annotated[str, Field(max_length=200)] | None = Field(
        None,
        description="the token's exact text, with its leading space, or its id. It selects the feature (for "
        "an addition, or the token's row of a look-up) that raised the token most where that was measured, "
        "else the one whose write list holds it highest; as a condition and as what a swap takes from, a "
        "feature that fires on it. `meant` of the response says how sure that is, and what else there is",
    )
    layer: int | None = None

    @model_validator(mode="after")
    def _either_id_or_token(self) -> Self:
        if (self.id is None) == (self.token is None):
            raise ValueError(
                "name each feature either by `id` (model/source/index) or by `token`, with a `layer`"
            )
        if self.id is not None and self.layer is not None:
            raise ValueError("`layer` belongs to a `token`; an `id` contains its layer")
        return self


class SteerFeature(FeatureChoice):
    """One intervention: x' = x + Δ at the feature's layer. The dictionary's error term is kept."""

    mode: Mode = Field(
        "add",
        description="add: along the feature's direction; orthogonal: the same, with the norm of x kept; "
        "clamp: set the activation; scale: multiply the activation; ablate: remove the activation; "
        "swap: move the activation to the feature `to`",
    )
    strength: Strength | None = Field(
        None,
        description="add, orthogonal: fraction of the layer's mean residual norm (default 0.5); "
        "clamp: in `unit` (default 1); scale: factor of the activation (default 2); "
        "swap: factor of the activation that is moved (default 1); ablate: has none. "
        "0 for add and orthogonal, and 1 for scale, are exactly the unsteered model.",
    )
    unit: Unit | None = Field(
        None,
        description="unit of a clamp's strength: max (multiples of the feature's maximum, the default) "
        "or activation",
    )
    to: FeatureChoice | None = Field(None, description="swap only: the feature that gets the activation")
    where: PositionRange = Field(
        "all",
        description="prompt: at the prompt's tokens; generated: at generated tokens, hence from the second "
        "generated token on",
    )
    positions: list[Annotated[int, Field(ge=0, lt=1_000_000)]] | None = Field(
        None, min_length=1, max_length=1024, description="at these positions only; overrides `where`"
    )
    when: FeatureChoice | None = Field(
        None, description="only where this feature is active; its layer must be the same or an earlier one"
    )

    @model_validator(mode="after")
    def _fits_its_mode(self) -> Self:
        if self.unit is not None and self.unit not in UNITS[self.mode]:
            raise ValueError(
                f"the strength of {self.mode} is given in {' or '.join(UNITS[self.mode])}, not in {self.unit}"
            )
        if (self.to is not None) != (self.mode == "swap"):
            raise ValueError("swap needs `to`, the feature that gets the activation; no other mode takes it")
        if self.strength is not None and self.mode == "ablate":
            raise ValueError("ablate has no strength; scale with strength 0 is the same")
        if self.strength is not None:
            check_strength(self.strength, self.mode, self.unit)
        return self


def check_strength(strength: float, mode: Mode, unit: Unit | None) -> None:
    """Raises ValueError for a strength outside the range of its mode and unit."""
    limit = MAX_ACTIVATION if unit == "activation" else MAX_STRENGTH
    if abs(strength) > limit:
        additive = mode in ("add", "orthogonal")
        note = f" (additions beyond ±{OFF_MANIFOLD:g} are already off-manifold)" if additive else ""
        raise ValueError(f"strength {strength:g} is outside ±{limit:g} {unit or UNITS[mode][0]}{note}")


class Sampling(Request):
    """How tokens are drawn. All rows of a request use the same random numbers."""

    max_tokens: int = Field(48, ge=1, le=256)
    temperature: float = Field(
        0.8, ge=0, le=5, allow_inf_nan=False, description="0 takes the most likely token"
    )
    top_k: int = Field(
        0, ge=0, le=1_000_000, description="draw from the k most likely tokens; 0: from all tokens"
    )
    top_p: float = Field(
        1.0, gt=0, le=1, description="draw from the smallest set of most likely tokens with this probability"
    )
    frequency_penalty: float = Field(
        0.0,
        ge=-2,
        le=2,
        allow_inf_nan=False,
        description="subtracted from a token's logit for each time the row already contains it",
    )
    stop: list[Annotated[str, Field(min_length=1, max_length=200)]] = Field(
        [], max_length=8, description="a row ends before the first of these texts"
    )
    seed: int = Field(0, ge=-(2**63), lt=2**63)


StrongestK = Annotated[
    int | None,
    Field(
        ge=1,
        le=100_000,
        description="encode with the k strongest features of a token, where a dictionary has more; null: "
        "as it was trained. Only dictionaries that select a fixed number (trained by `hierarchical` for "
        "every k)",
    ),
]


class SteerRequest(Sampling):
    """A prompt to continue twice: unsteered, and with interventions."""

    model_config = example(
        model="demo",
        prompt="Once upon a time",
        features=[{"id": "demo/1-vasae/17", "strength": 0.5}],
        max_tokens=8,
        temperature=0,
    )

    model: ModelId
    prompt: Text
    chat: bool = Field(False, description=CHAT)
    features: list[SteerFeature] = Field(min_length=1, max_length=32)
    k: StrongestK = None
    top_logprobs: int = Field(
        5, ge=0, le=20, description="number of alternatives returned with each generated token"
    )
    controls: bool = Field(
        False,
        description="also measure changes of the same length along control directions; an effect must be "
        "larger than under every control",
    )


class SweepRequest(Sampling):
    """The same interventions at several strengths, as rows of one batch."""

    model_config = example(
        model="demo",
        prompt="Once upon a time",
        features=[{"id": "demo/1-vasae/17"}],
        strengths=[0.25, 0.5],
        max_tokens=8,
    )

    model: ModelId
    prompt: Text
    chat: bool = Field(False, description=CHAT)
    features: list[SteerFeature] = Field(min_length=1, max_length=32)
    k: StrongestK = None
    strengths: list[Strength] = Field(
        [-1.0, -0.5, 0.125, 0.25, 0.5, 0.75, 1.0, 1.5],
        min_length=1,
        max_length=16,
        description="each becomes the strength of every intervention, in the unit of its mode",
    )
    max_tokens: int = Field(32, ge=1, le=256)
    controls: bool = Field(
        False,
        description="at each strength, also measure changes of the same length along control directions; the "
        "sweet spot must beat every control",
    )

    @model_validator(mode="after")
    def _can_be_swept(self) -> Self:
        units = {(feature.mode, feature.unit) for feature in self.features}
        if len(units) > 1 or self.features[0].mode == "ablate":
            raise ValueError(
                "a sweep needs interventions of one mode and one unit, and a mode that has a strength "
                "(not ablate)"
            )
        if any(feature.strength is not None for feature in self.features):
            raise ValueError(
                "`strengths` are those of every intervention: leave `strength` out of `features`"
            )
        for strength in self.strengths:
            check_strength(strength, self.features[0].mode, self.features[0].unit)
        return self


class ReadRequest(Request):
    """One text to read, or two texts to contrast."""

    model_config = example(model="demo", text="Once upon a time", sources=["1-vasae"], positions=[0])

    model: ModelId
    text: Text
    contrast: Text | None = Field(None, description="a second text, to contrast with the first")
    chat: bool = Field(False, description=CHAT)
    sources: list[Annotated[str, Field(max_length=200)]] = Field(
        [],
        max_length=64,
        description="dictionaries to read with; empty: the set with dictionaries at most layers",
    )
    subtract_mean: bool = Field(
        True, description="in the table, subtract the text's mean code from each token (arXiv 2606.27941)"
    )
    min_cosine: float = Field(
        0.0, ge=-1, le=1, description="in the table, leave out features named with a lower cosine"
    )
    feature: FeatureId | None = Field(
        None, description="one feature whose activation is returned at every token"
    )
    top: int = Field(
        20, ge=1, le=100, description="features listed for the whole text and for each side of a contrast"
    )
    k: StrongestK = None
    positions: list[Annotated[int, Field(ge=0, lt=1_000_000)]] | None = Field(
        None,
        max_length=1024,
        description="tokens whose active features are all listed, counted from 0; null: every token",
    )
