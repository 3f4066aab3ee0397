"""The records of the pages, each the page's `.json` twin."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field

from lexiscope.records.conditions import NUMBERS, Condition, conditions_of
from lexiscope.records.dictionary import LayerSummary
from lexiscope.records.feature import FeatureRecord, FeatureRef, Relation, Verdict, WriteVerdict
from lexiscope.records.record import Histogram, Record, ScoredToken, Token


class ModelSummary(Record):
    model: str
    n_features: int
    n_live: int
    vocab_size: int
    ce: float | None = Field(
        None, description="the model's own cross-entropy on held-out text, nats a token, where recorded"
    )
    layers: list[LayerSummary]


class HomePage(Record):
    """`/`"""

    build: str
    models: list[ModelSummary]
    example_tokens: list[Token] = Field(description="content words that name features, to start from")


class TokenHit(Record):
    """A token that matches a search, with how many features it names, by a relation or as their nearest
    anchor (0: it names nothing, and says so).
    """

    model: str
    token: Token
    count: int = Field(description="occurrences in the text that the model was last indexed over")
    n_features: int
    spelling: Token | None = Field(
        None, description="where it names nothing: the commonest token of its word that names features"
    )
    best: list[FeatureRef] = Field(
        [], description="the best feature of its word in each relation, where its name holds beyond chance"
    )


if TYPE_CHECKING:
    Sort = str
else:
    Sort = Literal[("match", "index", "share", "name", *NUMBERS)]


def _readable(where: str) -> str:
    conditions_of(where)
    return where


class Filters(Record):
    """Search and list filters as the address bar carries them."""

    model: str | None = None
    source: str | None = None
    layer: int | None = None
    min_cosine: float | None = Field(None, ge=-1, le=1)
    live: bool | None = None
    relation: Relation | None = Field(None, description="in a search: to a word that it found")
    verdict: Verdict | None = None
    write_verdict: WriteVerdict | None = None
    holds: bool | None = Field(None, description="whether the verdict is specific or partial")
    kind: str | None = Field(None, max_length=200, description="kind of the nearest anchor")
    min_share: float | None = Field(None, ge=0, le=1)
    min_density: float | None = Field(None, ge=0, le=1)
    max_density: float | None = Field(None, ge=0, le=1)
    where: Annotated[
        str,
        AfterValidator(_readable),
        Field(
            max_length=500,
            description="conditions on any numbers of the feature record, separated by commas: "
            "`relation_lift >= 5, skewness < 1`",
        ),
    ] = ""
    match: Literal["exact", "prefix", "substring"] = Field(
        "substring",
        description="the loosest match of a search: of the spelling (case and outer space aside) or the "
        "word, of the beginning, of any part",
    )
    sort: Sort = Field("match", description="`share` is relation_share; `name` the nearest anchor's spelling")
    descending: bool = False
    limit: Annotated[int, Field(ge=1, le=200)] = 50
    cursor: str | None = None

    @property
    def conditions(self) -> list[Condition]:
        """Those in `where`."""
        return conditions_of(self.where)

    def in_address(self) -> dict[str, Any]:
        """The parameters of a dictionary's list that are not as they are by default, without the page."""
        own = {"model", "source", "layer", "cursor"}
        given = self.model_dump(mode="json", exclude_none=True, exclude_defaults=True, exclude=own)
        if given.get("sort") == "index" and not self.descending:
            del given["sort"]
        return {
            name: str(value).lower() if value in (True, False) else value for name, value in given.items()
        }


class FeatureRow(FeatureRef):
    """A feature in a list."""

    sorted_by: float | None = Field(
        None, description="the number that the list is sorted by; null where it is none or not measured"
    )


class ListCounts(Record):
    """How many features pass the filters, and how many would with another verdict, relation or kind."""

    total: int
    verdict: dict[str, int] = Field(description="features by verdict, with the other filters as they are")
    relation: dict[str, int] = Field(description="by relation; those without one are left out")
    kind: dict[str, int] = Field(description="by kind of the nearest anchor; empty where there is only one")


class ListPlace(Record):
    """Where a feature stands in the list that it was opened from."""

    filters: Filters
    previous: int | None = Field(None, description="the feature before it")
    next: int | None = Field(None, description="the feature after it")
    position: int = Field(description="features before it in the list")
    total: int


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
    n_tokens: int = Field(description="tokens that match")
    tokens_from: int = Field(0, description="tokens that match and come before the first of this page")
    tokens: list[TokenHit]
    n_features: int = Field(description="features that these tokens name and that pass the filters")
    features_from: int = Field(0, description="features of the list before the first of this page")
    features: list[FeatureRow]
    next: str | None = Field(None, description="opaque cursor of the next page; null on the last")
    previous: str | None = Field(None, description="cursor of the page before; null on the first")


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
    n_features: dict[str, int] = Field(
        description="features in each relation to its word, and under `anchor` those whose nearest anchor "
        "alone it is; of each at most sixteen are listed"
    )
    features: list[NamedRef] = Field(description="those of the largest effect in each relation first")
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


class AnchorCount(Record):
    """How many features a token is near to. A token that is near to very many says little about each."""

    token: Token
    n_features: int = Field(description="features whose nearest anchor it is")
    n_live: int = Field(description="live ones among them")
    n_near: int = Field(description="live features with it among their six nearest anchors")


class AnchorPage(Record):
    """`/{model}/{source}/anchors`: the tokens that are near to the features of a dictionary."""

    build: str
    summary: LayerSummary
    sort: Literal["features", "near"]
    total: int = Field(description="tokens that are near to any feature")
    start: int = Field(description="tokens left out before the first")
    anchors: list[AnchorCount]


class Quartiles(Record):
    """Measured values below which a quarter, half and three quarters of the features lie."""

    low: float
    median: float
    high: float


class NumberRange(Record):
    """The least and the greatest value of a number in a dictionary."""

    low: float
    high: float


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
    cosine_quartiles: Quartiles | None = Field(
        description="nearest-anchor cosine of live features; null if all are dead"
    )
    density_quartiles: Quartiles | None = Field(description="density of the features that fired")
    numbers: dict[str, NumberRange] = Field(
        description="the numbers of the feature record that differ between its features"
    )
    collisions: list[AnchorCount] = Field(description="the nearest anchors of most features")
    n_collisions: int = Field(description="anchors that several features share")
    hub_tokens: list[AnchorCount] = Field(description="the tokens that most live features are near to")
    disagreements: list[FeatureRow] = Field(
        description="aligned live features whose name holds, and that fire on something else than their "
        "anchor's token: the densest; all of them with the filters `disagree`"
    )
    n_disagreements: int
    disagree: Filters
    filters: Filters
    counts: ListCounts
    start: int = Field(description="features of the list before the first of this page")
    features: list[FeatureRow]
    next: str | None = None
    previous: str | None = Field(None, description="cursor of the page before; null on the first")


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
    place: ListPlace = Field(description="where it stands in the list that the address's filters give")
    feature: FeatureRecord
