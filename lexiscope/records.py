"""The records that pages, API, client and exports share.

A page's `.json` twin is `record.model_dump_json()`; its HTML is the same record through a template. A record
holds only plain values: no tensors, no rows. Units: cosines in [-1, 1], shares in [0, 1], cross-entropies in
nats a token, activations in the dictionary's own scale (residual stream scaled to mean-square norm d).
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Verdict = Literal["reads", "predicts", "both", "unsupported", "dead"]
Bucket = Literal["strong", "medium", "weak", "none"]
ContextKind = Literal["top", "quantile", "near_miss"]

VERDICT_WORDS: dict[str, str] = {
    "reads": "Fires on its name (or its family) more often than chance allows.",
    "predicts": "Fires where its name comes next, or lowers its name's logit when taken away, more often than chance allows.",
    "both": "Fires on its name, and predicts it: where it comes next, or by its logit when taken away, more often than chance allows.",
    "unsupported": "What it fires on does not support its name: read the contexts, not the label.",
    "dead": "Fires on fewer than one token in 100,000: nothing is known about what it does.",
}


class Record(BaseModel):
    model_config = ConfigDict(frozen=True)


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
    cosine: float = Field(
        description="cosine of the direction to its nearest anchor in the dictionary's own set"
    )
    verdict: Verdict
    density: float = Field(description="share of corpus tokens on which it fires")


class Neighbour(FeatureRef):
    similarity: float = Field(description="cosine of the two decoder directions")


class Coactive(FeatureRef):
    jaccard: float = Field(
        description="positions on which both fire, over positions on which either does, in a sample of the text"
    )


class Context(Record):
    """A stretch of one passage around a firing (or nearly firing) position."""

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

    mean: float
    std: float
    skewness: float
    kurtosis: float = Field(description="excess kurtosis: 0 for a normal distribution")


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
    """A measured share with what chance gives (METHOD.md §5: frequency-matched random tokens)."""

    value: float
    null: float


class CausalEvidence(Record):
    """What taking the feature away does to the next-token logits, at a sample of its own firings."""

    n_contexts: int
    top1: Share = Field(description="share of contexts where the name's logit falls most of all tokens'")
    top5: Share
    median_rank: float = Field(
        description="median rank of the name among the logits that fall, 0 = falls most"
    )
    q: float = Field(description="false-discovery-rate q-value of top5 over the features tested")


class NameEvidence(Record):
    """Does the feature do what its name says? Shares over its firings, drawn from all activation quantiles."""

    n_firings: int = Field(description="firings the shares are taken over")
    reads_here: Share
    reads_family: Share
    reads_near: Share
    recall: float = Field(description="share of the name's occurrences on which it fires")
    predicts: Share
    q_reads: float = Field(
        description="false-discovery-rate q-value of reads_here or reads_family, over live features"
    )
    q_predicts: float = Field(
        description="the same for the next token, and for the ablation test where it was run"
    )
    supported: bool
    name_rank: int | None = Field(
        description="rank of the name (0 = top) when the direction is read through norm and unembedding; null where it is unknown"
    )
    causal: CausalEvidence | None = Field(
        None, description="absent where the ablation pass was not run or had no firing to use"
    )
    input_score: Share | None = Field(
        None, description="Arad et al. 2025: share of its top contexts whose strongest token is the name"
    )
    output_score: Share | None = Field(
        None,
        description="Arad et al. 2025: rise of the name's rank-weighted probability when the feature is amplified on a neutral prompt",
    )


class Afterwards(Record):
    """The best name found afterwards, whatever the geometry says."""

    lift: ScoredToken | None = Field(
        None, description="the token it fires on with the highest lift; score = share of its firings"
    )
    logit: ScoredToken = Field(
        description="the top token of the direction through norm and unembedding; score = logit"
    )
    logit_share: float | None = Field(
        None, description="share of its firings that the top logit token follows"
    )
    beats_name: bool = Field(
        description="the lift token takes more of its firings than the name does, by more than chance"
    )
    logit_beats_name: bool = Field(
        False,
        description="the top logit token follows more of its firings than the name does, by more than chance",
    )


class FeatureRecord(Record):
    """Everything known about one feature."""

    id: str
    model: str
    source: str
    layer: int
    index: int
    d_sae: int = Field(description="features of its dictionary")
    recipe: str
    name: Token
    cosine: float
    cosine_embedding: float = Field(description="cosine of the direction to the name's row of raw W_E")
    assigned: Token | None = Field(
        None, description="the anchor it was trained towards; the name is the nearest anchor"
    )
    cosine_assigned: float | None = None
    anchor_kind: str
    bucket: Bucket
    margin: float = Field(description="cosine of the name minus cosine of the second name")
    next_names: list[ScoredToken]
    random_cosine: float = Field(
        description="mean nearest-anchor cosine of random directions of equal covariance"
    )
    phrase: list[Token] = Field(description="up to three tokens, by non-negative orthogonal matching pursuit")
    phrase_cosine: float
    n_same_name: int = Field(description="features of this dictionary with the same name, itself included")
    n_same_family: int = Field(
        description="features whose name is this one but for case and outer space, itself included"
    )
    live: bool
    density: float
    n_firings: int
    n_tokens: int = Field(description="corpus tokens the counts are over")
    mean_activation: float
    max_activation: float
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
    """One dictionary in one line: what the layer plots and tables need. Shares by METHOD.md §5."""

    model: str
    source: str
    layer: int
    recipe: str
    origin: str = Field(
        description="who trained it: lexiscope, saelens, sparsify, vasae (the paper's authors), or neuronpedia (imported)"
    )
    architecture: str = Field(
        description="as its own library calls it: topk, batchtopk, jumprelu, gated, standard, …"
    )
    d_in: int
    d_sae: int
    k: int = Field(description="active features a token; 0 where no fixed number is selected (see l0)")
    l0: float = Field(description="mean active features a token on the indexed text")
    anchor_kind: str
    n_live: int
    dead_share: float
    aligned_all: float
    aligned_live: float
    aligned_firing: float
    aligned_energy: float
    aligned_live_embedding: float
    supported_live: float
    supported_firing: float
    half_live: float = Field(
        description="share of live features with at least half of their firings on the name's family"
    )
    coverage: float
    ablation_top1: float | None = Field(
        None, description="mean over the live features tested; absent where the ablation pass was not run"
    )
    ablation_top5: float | None = None
    verdicts: dict[str, int] = Field(description="features by verdict")
    random_cosine: float
    fve: float | None = None
    delta_ce: float | None = None
    dense_share: float | None = None
    lookup_share: float | None = None
    index_tokens: int = Field(description="corpus tokens indexed")


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
    """`/search?q=`: `tokens` first (exact, then prefix, then substring), then the features those tokens name."""

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
        description="how the ablation pass was run: contexts a feature, prompt, strength; absent where it was not",
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
