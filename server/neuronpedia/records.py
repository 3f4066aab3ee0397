"""Neuronpedia's responses. Fields have Neuronpedia's names, and are described where the name does not say
what they hold.
"""

from typing import Any

from pydantic import Field

from lexiscope.records import Record

BOS = (
    "position 0 is BOS, which is never encoded and has no activation; a BOS that the text spells out at its "
    "beginning is not read twice"
)


class NeuronpediaExplanation(Record):
    """A name with its verdict, in words."""

    id: str
    modelId: str
    layer: str
    source: str
    index: str
    description: str
    notes: str
    typeName: str
    explanationModelName: str
    scores: list[Any] = Field([])


class NeuronpediaActivation(Record):
    """A context, as much of it as the feature's page shows."""

    id: str
    modelId: str
    layer: str
    source: str
    index: str
    tokens: list[str]
    values: list[float]
    maxValue: float
    maxValueTokenIndex: int
    minValue: float
    dataIndex: str | None = Field(description="the passage in the indexed text")
    dataSource: str
    binMin: float | None = Field(None, description="-1 for the strongest contexts")
    binMax: float | None = None
    binContains: float | None = Field(
        None, description="share of all tokens; null for the strongest contexts"
    )
    qualifyingTokenIndex: int | None = None
    dfaValues: list[float] = Field([])
    dfaTargetIndex: int | None = None
    dfaMaxValue: float | None = None
    lossValues: list[float] = Field([])
    logitContributions: str | None = None
    createdAt: str | None = None
    creatorId: str = ""


class NeuronpediaModel(Record):
    id: str
    displayName: str
    dimension: int


class NeuronpediaSource(Record):
    id: str
    modelId: str
    setName: str
    dataset: str
    num_prompts: int
    num_tokens_in_prompt: int


class NeuronpediaSourceSet(Record):
    modelId: str
    name: str
    description: str
    creatorName: str


class NeuronpediaFeature(Record):
    """A feature as `GET /api/feature/{modelId}/{layer}/{index}` gives it."""

    modelId: str
    layer: str = Field(description="the source, `<layer>-<set>`")
    index: str
    sourceSetName: str
    creatorId: str = ""
    creator: dict[str, str]
    createdAt: str | None = None
    maxActApprox: float
    frac_nonzero: float
    hasVector: bool = False
    vector: list[float] = Field([])
    vectorLabel: str | None = None
    vectorDefaultSteerStrength: float
    hookName: str
    topkCosSimIndices: list[int]
    topkCosSimValues: list[float]
    neuron_alignment_indices: list[int] = Field([])
    neuron_alignment_values: list[float] = Field([])
    neuron_alignment_l1: list[float] = Field([])
    correlated_neurons_indices: list[int] = Field([])
    correlated_neurons_pearson: list[float] = Field([])
    correlated_neurons_l1: list[float] = Field([])
    correlated_features_indices: list[int] = Field([])
    correlated_features_pearson: list[float] = Field([])
    correlated_features_l1: list[float] = Field([])
    pos_str: list[str]
    pos_values: list[float]
    neg_str: list[str]
    neg_values: list[float]
    freq_hist_data_bar_values: list[float]
    freq_hist_data_bar_heights: list[int]
    logits_hist_data_bar_values: list[float] = Field([])
    logits_hist_data_bar_heights: list[int] = Field([])
    decoder_weights_dist: list[float] = Field([])
    activations: list[NeuronpediaActivation]
    explanations: list[NeuronpediaExplanation]
    comments: list[Any] = Field([])
    lists: list[Any] = Field([])
    model: NeuronpediaModel
    source: NeuronpediaSource
    sourceSet: NeuronpediaSourceSet


class BriefFeature(Record):
    """What a search says of a feature."""

    modelId: str
    layer: str
    index: str
    sourceSetName: str
    frac_nonzero: float
    explanations: list[NeuronpediaExplanation]


class NewActivation(Record):
    """A feature on a text of your own."""

    tokens: list[str] = Field(description=BOS)
    values: list[float]
    maxValue: float
    minValue: float
    maxValueTokenIndex: int
    modelId: str
    layer: str
    index: str
    creatorId: str = ""
    dataIndex: str | None = None
    dataSource: str = "Lexiscope"
    createdAt: str | None = None
    dfaValues: list[float] | None = None
    dfaTargetIndex: int | None = None
    dfaMaxValue: float | None = None


class SourceActivations(Record):
    """One text under one dictionary."""

    tokens: list[str] = Field(description=BOS)
    activeFeatures: dict[str, list[tuple[int, float]]] = Field(
        description="for each active feature, the positions where it is active, with its activations"
    )


class ActivationSourceResponse(Record):
    results: list[SourceActivations]


class SearchAllResult(Record):
    modelId: str
    layer: str
    index: str
    values: list[float]
    maxValue: float
    maxValueIndex: int
    neuron: BriefFeature
    dfaValues: list[float] | None = None
    dfaTargetIndex: int | None = None
    dfaMaxValue: float | None = None


class SearchAllResponse(Record):
    tokens: list[str] = Field(description=BOS)
    result: list[SearchAllResult]
    counts: list[list[int]] = Field(description="for each dictionary, active features at each position")
    sortIndexes: list[int]


class SearchAllBatch(Record):
    """The same for several texts."""

    results: list[SearchAllResponse]


class TopFeature(Record):
    activationValue: float
    featureIndex: int
    feature: BriefFeature


class TopFeatures(Record):
    position: int
    token: str
    isSpecial: bool = Field(description="true for BOS")
    topFeatures: list[TopFeature]


class SearchTopKResponse(Record):
    source: str
    results: list[TopFeatures]


class SearchTopKBatch(Record):
    """The same for several texts."""

    results: list[SearchTopKResponse]


class FeaturePlace(Record):
    model: str
    source: str
    index: int


class CosSimFeature(Record):
    feature: FeaturePlace
    cosineSimilarity: float


class CosSimResponse(Record):
    feature: FeaturePlace
    topkDecoderCossimFeatures: list[CosSimFeature]


class TokenLogprob(Record):
    token: str
    logprob: float


class GeneratedLogprob(TokenLogprob):
    topLogprobs: list[TokenLogprob]


class SteerCompletion(Record):
    """Both texts, each after the prompt."""

    STEERED: str
    DEFAULT: str
    steeredLogProbs: list[GeneratedLogprob]
    defaultLogProbs: list[GeneratedLogprob]
    id: str | None = Field(None, description="null: nothing is kept")
    shareUrl: str | None = None
    limit: str | None = None
