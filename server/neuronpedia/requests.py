"""Neuronpedia's requests. Fields have Neuronpedia's names."""

from typing import Annotated, Literal

from pydantic import Field, StrictInt, model_validator

from lexiscope.records import Request, example

MAX_TEXTS = 16
MAX_FEATURES = 64

ModelId = Annotated[str, Field(min_length=1, max_length=200)]
SourceId = Annotated[str, Field(min_length=1, max_length=200, description="`<layer>-<set>`")]
Index = Annotated[StrictInt, Field(ge=0, lt=10**10)] | Annotated[str, Field(pattern=r"^[0-9]{1,10}$")]
Text = Annotated[str, Field(min_length=1, max_length=20_000)]
Texts = Text | Annotated[list[Text], Field(min_length=1, max_length=MAX_TEXTS)]
Density = Annotated[float, Field(ge=0, le=1)] | Literal[-1]


class SourcedFeature(Request):
    """A feature; `layer` is another word for `source`."""

    modelId: ModelId
    source: SourceId | None = None
    layer: SourceId | None = Field(None, description="the same as `source`")
    index: Index

    @model_validator(mode="after")
    def _has_a_source(self) -> "SourcedFeature":
        if not (self.source or self.layer):
            raise ValueError("give the feature's `source`, `<layer>-<set>`")
        return self

    @property
    def id(self) -> str:
        return f"{self.modelId}/{self.source or self.layer}/{int(self.index)}"


class FeaturesItem(Request):
    """One feature of `POST /api/features`."""

    model_config = example(modelId="demo", layer="1-vasae", index=17, maxActsToReturn=1)

    modelId: ModelId
    layer: SourceId
    index: Index
    maxActsToReturn: int | None = Field(None, ge=0, le=1000, description="contexts to return; all if absent")


class ActivationGetRequest(Request):
    """The feature whose contexts are asked for."""

    model_config = example(modelId="demo", source="1-vasae", index="17")

    modelId: ModelId
    source: SourceId
    index: Index


class ActivationNewRequest(Request):
    """One feature's activation on texts of your own."""

    model_config = example(
        feature={"modelId": "demo", "source": "1-vasae", "index": "17"}, customText="Once upon a time"
    )

    feature: SourcedFeature
    customText: Texts
    ignoreBos: bool = Field(False, description="leave out position 0")


class ActivationSourceRequest(Request):
    """All features of one dictionary that are active on texts of your own."""

    model_config = example(modelId="demo", source="1-vasae", customText=["Once upon a time"])

    modelId: ModelId
    source: SourceId
    customText: Texts


class SearchAllRequest(Request):
    """The features that are most active on a text."""

    model_config = example(
        modelId="demo",
        sourceSet="vasae",
        text="Once upon a time",
        selectedLayers=["1-vasae"],
        sortIndexes=[1],
    )

    modelId: ModelId
    sourceSet: Annotated[str, Field(min_length=1, max_length=200)]
    text: Texts
    selectedLayers: list[SourceId] = Field(
        [], max_length=64, description="dictionaries; empty: the whole set"
    )
    sortIndexes: list[Annotated[int, Field(ge=0, lt=1_000_000)]] = Field(
        [],
        max_length=1024,
        description="order by the sum of activations at these positions instead of the maximum; 0 is BOS",
    )
    ignoreBos: bool = Field(
        True, description="without effect: BOS is never encoded, and so never the top token"
    )
    densityThreshold: Density = Field(-1, description="leave out features of a higher density; -1 or 0: none")
    numResults: int = Field(50, ge=1, le=100)


class SearchTopKRequest(Request):
    """The most active features of each token of a text."""

    model_config = example(modelId="demo", source="1-vasae", text="Once upon a time", numResults=5)

    modelId: ModelId
    source: SourceId
    text: Texts
    numResults: int = Field(10, ge=1, le=20)
    ignoreBos: bool = Field(
        True, description="leave out position 0; positions are counted from BOS all the same"
    )
    densityThreshold: Density = Field(
        0.01, description="leave out features of a higher density; -1 or 0: none"
    )


class CosSimRequest(Request):
    """The features of a dictionary whose decoder directions are nearest to a feature's."""

    model_config = example(
        modelId="demo", source="1-vasae", index=17, targetModelId="demo", targetSourceId="1-vasae"
    )

    modelId: ModelId
    source: SourceId
    index: Index
    targetModelId: ModelId
    targetSourceId: SourceId


class SteeredFeature(Request):
    """A feature to add, or to set."""

    modelId: ModelId
    layer: SourceId
    index: Index
    strength: float = Field(
        allow_inf_nan=False, ge=-100_000, le=100_000, description="in units of the feature's activation"
    )


class SteerCompletionRequest(Request):
    """A prompt to continue twice: as the model does, and with features added to the residual stream."""

    model_config = example(
        prompt="Once upon a time",
        modelId="demo",
        features=[{"modelId": "demo", "layer": "1-vasae", "index": 17, "strength": 5}],
        temperature=0,
        n_tokens=8,
    )

    prompt: Text
    modelId: ModelId
    features: list[SteeredFeature] = Field(min_length=1, max_length=32)
    temperature: float = Field(0.5, ge=0, le=2, allow_inf_nan=False)
    n_tokens: int = Field(48, ge=1, le=256)
    freq_penalty: float = Field(0.0, ge=-2, le=2, allow_inf_nan=False)
    seed: int = Field(16, ge=-100_000_000, le=100_000_000)
    strength_multiplier: float = Field(
        1.0, ge=0, le=10, allow_inf_nan=False, description="of every feature's strength"
    )
    stream: bool = Field(
        False, description="server-sent events; each has both texts as far as they are written"
    )
    steer_method: Literal["SIMPLE_ADDITIVE", "ORTHOGONAL_DECOMP"] = Field(
        "SIMPLE_ADDITIVE",
        description="SIMPLE_ADDITIVE adds strength times the decoder row; ORTHOGONAL_DECOMP sets the "
        "component of the residual stream along it",
    )
