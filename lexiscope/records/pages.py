"""The records of the pages, each the page's `.json` twin."""

from typing import Annotated, Any, Literal

from pydantic import Field

from lexiscope.records.dictionary import LayerSummary
from lexiscope.records.feature import FeatureRecord, FeatureRef, Relation, Verdict
from lexiscope.records.record import Histogram, Record, ScoredToken, Token


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
    example_tokens: list[Token] = Field(description="frequent words with specific features, to start from")


class TokenHit(Record):
    """A token that matches a search, with how many features it names, by a relation or as their nearest
    anchor (0: it names nothing, and says so).
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
    relation: Relation | None = None
    verdict: Verdict | None = None
    min_share: float | None = Field(None, ge=0, le=1)
    min_density: float | None = Field(None, ge=0, le=1)
    max_density: float | None = Field(None, ge=0, le=1)
    sort: Literal["match", "index", "share", "cosine", "density", "max_activation", "name"] = "match"
    descending: bool = False
    limit: Annotated[int, Field(ge=1, le=200)] = 50
    cursor: str | None = None


class SearchPage(Record):
    """`/search?q=`: `tokens` (exact, then other tokens of the same word, prefix, substring), then the
    features those tokens name: by a relation first, the largest share first.
    """

    build: str
    query: str
    match: Literal["exact", "prefix", "substring", "id", "none"] = Field(
        description="the loosest kind of match shown"
    )
    filters: Filters
    tokens: list[TokenHit]
    features: list[FeatureRef]
    next: str | None = Field(None, description="opaque cursor of the next page")


class TokenRow(Record):
    """A token's row in the look-up of a dictionary: the layer's mean state on it, less the mean of all. It is
    no feature, and never counts as a firing.
    """

    id: str = Field(description="model/source/token-<id>, to steer by")
    trained_on: int = Field(description="occurrences of the token in the text the look-up was fitted on")
    norm: float = Field(description="over the layer's mean residual norm")
    neighbours: list[ScoredToken] = Field(
        description="tokens of the nearest other rows: what the model takes for the same word here"
    )
    raises: list[ScoredToken] = Field(description="tokens whose logits the row raises most")
    own_rank: int = Field(description="place of its own token among them, 0 first")


class NamedRef(FeatureRef):
    """A feature that a token names."""

    via: Relation | Literal["anchor"] = Field(
        description="its relation to the token's word; 'anchor' where the token is its nearest anchor alone"
    )


class TokenLayer(Record):
    layer: int
    source: str
    recipe: str
    best_cosine: float | None
    features: list[NamedRef]
    row: TokenRow | None = Field(
        None, description="the token's row, where the dictionary has a look-up and was trained on the token"
    )


class TokenPage(Record):
    """`/tokens/{model}/{id}`: one token through the layers, with the features that its word names."""

    build: str
    model: str
    token: Token
    count: int
    layers: list[TokenLayer] = Field(
        description="one entry a dictionary, in layer order, empty where nothing carries it"
    )
    variants: list[TokenHit] = Field(
        description="other tokens of its spelling (case, outer space) or its word (inflections)"
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
        description="aligned live features that fire on something else than their anchor's token"
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
    previous_source: str | None = Field(
        None, description="the dictionary of the same set one layer before; null where the index has none"
    )
    next_source: str | None = Field(None, description="the one a layer after")
    feature: FeatureRecord
