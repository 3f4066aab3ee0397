"""The records that pages, API, client and exports share.

A page's `.json` twin is `record.model_dump_json()`; its HTML is the same record through a template. A record
holds only plain values: no tensors, no rows. Units: cosines in [-1, 1], shares in [0, 1], cross-entropies in
nats a token, activations in the dictionary's own scale (residual stream scaled to mean-square norm d).
"""

from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, computed_field

from lexiscope.measures import DICTIONARY, FEATURE, Measure
from lexiscope.measures.warnings import reconstruction_warning

RESERVED_MODEL_IDS = frozenset(
    {"about", "api", "compare", "docs", "healthz", "random", "read", "search", "static", "steer", "tokens"}
)
"""first parts of the addresses of pages and services, which no model may have as its id"""

Verdict = Literal["reads", "predicts", "both", "unsupported", "dead"]
Bucket = Literal["strong", "medium", "weak", "none"]
ContextKind = Literal["top", "quantile", "near_miss"]

VERDICT_WORDS: dict[str, str] = {
    "reads": "Fires on its name (or its family) more often than chance allows.",
    "predicts": "Fires where its name comes next, or lowers its name's logit when taken away, more often "
    "than chance allows.",
    "both": "Fires on its name, and predicts it: where it comes next, or by its logit when taken away, more "
    "often than chance allows.",
    "unsupported": "What it fires on does not support its name: read the contexts, not the label.",
    "dead": "Fires on fewer than one token in 100,000: nothing is known about what it does.",
}


def set_of(source: str) -> str:
    """The set in a source's name, `<layer>-<set>`."""
    return source.partition("-")[2]


class Record(BaseModel):
    model_config = ConfigDict(frozen=True)


def measured(measure: Measure, default: Any = ...) -> Any:
    """A field that holds a measure, or a `Share` of the measure and its chance; described by the measure."""
    meaning = measure.meaning if default is ... else measure.comment
    field = Field(default, description=meaning, json_schema_extra={"x-unit": measure.unit})
    field.metadata.append(measure)
    return field


@cache
def measures_of(record: type[Record]) -> Mapping[str, Measure]:
    """{field: the measure it holds}, for the fields made by `measured`."""
    return {
        name: measure
        for name, field in record.model_fields.items()
        for measure in field.metadata
        if isinstance(measure, Measure)
    }


def measured_values(*records: Record | None) -> dict[str, Any]:
    """{name of a measure: its value, or its `Share`} of all measures that the records hold; None is
    skipped.
    """
    return {
        measure.name: getattr(record, field)
        for record in records
        if record is not None
        for field, measure in measures_of(type(record)).items()
    }


class Token(Record):
    """One vocabulary entry. `shown` is unambiguous (␣ ↵ ⇥, hex for partial characters); `raw` is its bytes in
    hex.
    """

    id: int
    shown: str
    raw: str = ""


class ScoredToken(Token):
    """A token with a number whose meaning the field holding it gives (cosine, logit, share)."""

    score: float


class FeatureRef(Record):
    """A feature as other records point at it. `id` is `model/source/index`."""

    id: str
    model: str
    source: str
    layer: int
    index: int
    name: Token
    cosine: float = measured(FEATURE["cosine"])
    verdict: Verdict
    density: float = measured(FEATURE["density"])


class Neighbour(FeatureRef):
    similarity: float = Field(description="cosine of the two decoder directions")


class Coactive(FeatureRef):
    jaccard: float = Field(
        description="positions on which both fire, over those on which either does, in a sample of the text"
    )


CONTEXT_BEFORE, CONTEXT_AFTER = 32, 16
"""Tokens of a context before its position and after it; `reads_near` looks as far back."""


class Context(Record):
    """The tokens of one passage around a position where a feature fires (or nearly fires)."""

    kind: ContextKind
    quantile: int | None = Field(
        None, description="0 (weakest fifth of its firings) to 4 (strongest), for kind 'quantile'"
    )
    passage: int
    position: int = Field(description="index into `tokens` of the position that put this context here")
    value: float = Field(
        description="activation there; for a near miss, the pre-activation that lost the selection"
    )
    tokens: list[Token]
    values: list[float] = Field(description="activation at each token, 0 where the feature is silent")


class Histogram(Record):
    """Bins between log-spaced `edges` (len(counts) + 1); zeros are counted apart."""

    edges: list[float]
    counts: list[int]
    zeros: int


class Moments(Record):
    """Of the activation, over the positions where the feature fires; absent below two firings or without
    spread.
    """

    mean: float = measured(FEATURE["mean_activation"])
    std: float = measured(FEATURE["std_activation"])
    skewness: float = measured(FEATURE["skewness"])
    kurtosis: float = measured(FEATURE["kurtosis"])


class PositionHistogram(Record):
    """Where in a passage it fires: bin i holds positions edges[i] to edges[i + 1] − 1 (position 0, BOS, is
    never encoded).
    """

    edges: list[int]
    counts: list[int] = Field(description="firings in each bin")
    totals: list[int] = Field(
        description="corpus positions in each bin: counts over totals is the density there"
    )


class Share(Record):
    """A measured share and what chance gives: the same for frequency-matched random tokens."""

    value: float
    null: float


class CausalEvidence(Record):
    """What taking the feature away does to the next-token logits, at a sample of its own firings."""

    n_contexts: int = measured(FEATURE["ablation_contexts"])
    top1: Share = measured(FEATURE["ablation_top1"])
    top5: Share = measured(FEATURE["ablation_top5"])
    median_rank: float = measured(FEATURE["ablation_rank"])
    q: float = measured(FEATURE["q_ablation"])


class NameEvidence(Record):
    """Does the feature do what its name says? Shares of its firings, drawn from all activation quantiles."""

    n_firings: int = measured(FEATURE["n_firings"])
    reads_here: Share = measured(FEATURE["reads_here"])
    reads_family: Share = measured(FEATURE["reads_family"])
    reads_near: Share = measured(FEATURE["reads_near"])
    recall: float = measured(FEATURE["recall"])
    predicts: Share = measured(FEATURE["predicts"])
    q_reads: float = measured(FEATURE["q_reads"])
    q_predicts: float = measured(FEATURE["q_predicts"])
    supported: bool = measured(FEATURE["supported"])
    name_rank: int | None = measured(FEATURE["name_rank"])
    causal: CausalEvidence | None = Field(
        None, description="absent where the ablation pass was not run or had no firing to use"
    )
    input_score: Share | None = measured(FEATURE["input_score"], None)
    output_score: Share | None = measured(FEATURE["output_score"], None)


class Afterwards(Record):
    """The best name found afterwards, whatever the geometry says."""

    lift: ScoredToken | None = Field(
        None, description="the token it fires on with the highest lift; score = share of its firings"
    )
    logit: ScoredToken = Field(
        description="the top token of the direction through norm and unembedding; score = logit"
    )
    logit_share: float | None = measured(FEATURE["logit_share"], None)
    beats_name: bool = measured(FEATURE["beats_name"])
    logit_beats_name: bool = measured(FEATURE["logit_beats_name"], False)


class FeatureRecord(Record):
    """Everything known about one feature."""

    id: str
    model: str
    source: str
    layer: int
    index: int
    d_sae: int = measured(DICTIONARY["d_sae"])
    recipe: str
    name: Token
    cosine: float = measured(FEATURE["cosine"])
    cosine_embedding: float = measured(FEATURE["cosine_embedding"])
    assigned: Token | None = Field(
        None, description="the anchor it was trained towards; the name is the nearest anchor"
    )
    cosine_assigned: float | None = measured(FEATURE["cosine_assigned"], None)
    anchor_kind: str
    bucket: Bucket
    margin: float = measured(FEATURE["margin"])
    next_names: list[ScoredToken]
    random_cosine: float = measured(DICTIONARY["random_cosine"])
    phrase: list[Token] = Field(description="up to three tokens, by non-negative orthogonal matching pursuit")
    phrase_cosine: float = measured(FEATURE["phrase_cosine"])
    n_same_name: int = measured(FEATURE["n_same_name"])
    n_same_family: int = measured(FEATURE["n_same_family"])
    live: bool = measured(FEATURE["live"])
    density: float = measured(FEATURE["density"])
    n_firings: int = measured(FEATURE["n_firings"])
    n_tokens: int = Field(description="corpus tokens the counts are over")
    mean_activation: float = measured(FEATURE["mean_activation"])
    max_activation: float = measured(FEATURE["max_activation"])
    moments: Moments | None = None
    histogram: Histogram
    positions: PositionHistogram
    logits_positive: list[ScoredToken]
    logits_negative: list[ScoredToken]
    evidence: NameEvidence | None = Field(
        None, description="absent when the feature never fired on the corpus"
    )
    afterwards: Afterwards | None = None
    verdict: Verdict
    verdict_words: str
    contexts: list[Context]
    neighbours: list[Neighbour]
    previous_layer: list[Neighbour] = Field(
        description="nearest by decoder cosine, in the same set's dictionary one layer before"
    )
    next_layer: list[Neighbour]
    previous_coactive: list[Coactive] = Field(
        description="in the same dictionaries, those that fire on the same positions"
    )
    next_coactive: list[Coactive]


class LayerSummary(Record):
    """One dictionary in one line: what the layer plots and tables need."""

    model: str
    source: str
    layer: int
    recipe: str
    origin: str = Field(
        description="the library that trained it: lexiscope, saelens, sparsify, vasae (the paper's authors), "
        "gemma-scope, dictionary_learning, llamascopium, qwen-scope, linear-layers; neuronpedia for an import"
    )
    architecture: str = Field(
        description="as its own library calls it: topk, batchtopk, jumprelu, gated, standard, …"
    )
    d_in: int
    d_sae: int = measured(DICTIONARY["d_sae"])
    k: int = Field(description="active features a token; 0 where no fixed number is selected (see l0)")
    l0: float = measured(DICTIONARY["l0"])
    anchor_kind: str
    n_live: int = measured(DICTIONARY["n_live"])
    dead_share: float = measured(DICTIONARY["dead_share"])
    aligned_all: float = measured(DICTIONARY["aligned_all"])
    aligned_live: float = measured(DICTIONARY["aligned_live"])
    aligned_firing: float = measured(DICTIONARY["aligned_firing"])
    aligned_energy: float = measured(DICTIONARY["aligned_energy"])
    aligned_live_embedding: float = measured(DICTIONARY["aligned_live_embedding"])
    supported_live: float = measured(DICTIONARY["supported_live"])
    supported_firing: float = measured(DICTIONARY["supported_firing"])
    half_live: float = measured(DICTIONARY["half_live"])
    coverage: float = measured(DICTIONARY["coverage"])
    ablation_top1: float | None = measured(DICTIONARY["ablation_top1"], None)
    ablation_top5: float | None = measured(DICTIONARY["ablation_top5"], None)
    verdicts: dict[str, int] = Field(description="features by verdict")
    random_cosine: float = measured(DICTIONARY["random_cosine"])
    fve_text: float | None = measured(DICTIONARY["fve_text"], None)
    fve: float | None = measured(DICTIONARY["fve"], None)
    delta_ce: float | None = measured(DICTIONARY["delta_ce"], None)
    dense_share: float | None = measured(DICTIONARY["dense_share"], None)
    index_tokens: int = measured(DICTIONARY["index_tokens"])

    @computed_field(description="why its figures may be worthless; empty where nothing suggests it")  # type: ignore[prop-decorator]
    @property
    def warning(self) -> str:
        return reconstruction_warning(self.fve_text)


class ModelSummary(Record):
    model: str
    n_features: int
    n_live: int
    vocab_size: int
    layers: list[LayerSummary]


class HomePage(Record):
    """`/`"""

    build: str
    models: list[ModelSummary]
    example_tokens: list[Token] = Field(
        description="frequent tokens that name well-supported features, to start from"
    )


class TokenHit(Record):
    """A token that matches a search, with how many features carry its name (0: it names nothing, and says
    so).
    """

    model: str
    token: Token
    count: int = Field(description="occurrences in the indexed corpus")
    n_features: int


class Filters(Record):
    """Search and list filters as the address bar carries them."""

    model: str | None = None
    source: str | None = None
    layer: int | None = None
    min_cosine: float | None = Field(None, ge=-1, le=1)
    live: bool | None = None
    verdict: Verdict | None = None
    min_density: float | None = Field(None, ge=0, le=1)
    max_density: float | None = Field(None, ge=0, le=1)
    sort: Literal["match", "index", "cosine", "density", "max_activation", "name"] = "match"
    descending: bool = False
    limit: Annotated[int, Field(ge=1, le=200)] = 50
    cursor: str | None = None


class SearchPage(Record):
    """`/search?q=`: `tokens` (exact, then prefix, then substring), then the features those tokens name."""

    build: str
    query: str
    match: Literal["exact", "prefix", "substring", "id", "none"] = Field(
        description="the loosest kind of match shown"
    )
    filters: Filters
    tokens: list[TokenHit]
    features: list[FeatureRef]
    next: str | None = Field(None, description="opaque cursor of the next page")


class TokenLayer(Record):
    layer: int
    source: str
    recipe: str
    best_cosine: float | None
    features: list[FeatureRef]


class TokenPage(Record):
    """`/tokens/{model}/{id}`: one token through the layers."""

    build: str
    model: str
    token: Token
    count: int
    layers: list[TokenLayer] = Field(
        description="one entry a dictionary, in layer order, empty where nothing carries it"
    )
    variants: list[TokenHit] = Field(
        description="tokens that fold to the same spelling (case, leading space)"
    )


class Collision(Record):
    token: Token
    n_features: int
    n_live: int


class HubToken(Record):
    """A token among the nearest names of very many features: a name that says less than others."""

    token: Token
    n_near: int = Field(description="live features with it among their six nearest names")


class DictionaryPage(Record):
    """`/{model}/{source}`: one dictionary."""

    build: str
    summary: LayerSummary
    hook_name: str
    training: dict[str, Any] = Field(
        description="the checkpoint's metadata block: recipe, seed, tokens, versions"
    )
    metrics: dict[str, Any] = Field(description="the checkpoint's metrics.json")
    causal: dict[str, Any] | None = Field(
        None,
        description="how the ablation pass was run: contexts a feature, prompt, strength; null where it was "
        "not",
    )
    cosine_histogram: Histogram = Field(
        description="nearest-anchor cosine of live features, linear bins; zeros = dead features"
    )
    density_histogram: Histogram
    collisions: list[Collision] = Field(description="names shared by most features")
    hub_tokens: list[HubToken]
    disagreements: list[FeatureRef] = Field(
        description="aligned live features whose evidence does not support the name"
    )
    filters: Filters
    features: list[FeatureRef]
    next: str | None = None


class FeaturePage(Record):
    """`/{model}/{source}/{index}`"""

    build: str
    dictionary: LayerSummary = Field(
        description="the dictionary it belongs to: who trained it, how, and how its names fare as a whole"
    )
    feature: FeatureRecord


class ErrorRecord(Record):
    """The one shape of every error."""

    ok: Literal[False] = False
    status: int
    error: str
    kept: str = Field("", description="what was kept safe, where something could have been lost")
