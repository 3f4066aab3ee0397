"""One feature: how other records refer to it, and everything that is known about it."""

from typing import Literal

from pydantic import Field

from lexiscope.measures import DICTIONARY, FEATURE
from lexiscope.records.record import Histogram, Record, ScoredToken, Token, measured

Verdict = Literal["specific", "partial", "weak", "none", "untested", "dead"]
WriteVerdict = Literal["both", "steering", "ablation", "none", "untested", "dead"]
Direction = Literal["feature", "row", "embedding", "jacobian"]
Relation = Literal["on", "after", "before", "near"]
Bucket = Literal["strong", "medium", "weak", "none"]
ContextKind = Literal["top", "quantile", "near_miss"]

VERDICT_WORDS: dict[str, str] = {
    "specific": "At least half of its firings are as the name says, even at the lower end of the 95 % "
    "interval, and five times as many as by chance.",
    "partial": "At least a tenth of its firings are as the name says, even at the lower end of the 95 % "
    "interval, and five times as many as by chance.",
    "weak": "More of its firings are as the name says than by chance, but at the lower end of the 95 % "
    "interval less than a tenth, or not five times as many.",
    "none": "No word says beyond chance what it fires on: read the contexts.",
    "untested": "Too few firings to tell: fewer than 20 to judge a name on, or in fewer than 5 passages.",
    "dead": "Fires on fewer than one token in 100,000: nothing is known about what it does.",
}
WRITE_VERDICT_WORDS: dict[str, str] = {
    "both": "Adding it raises the first of these tokens by more than every control, and without it one of "
    "them is among the five that fall most.",
    "steering": "Adding it raises the first of these tokens by more than every control; without it others "
    "fall more.",
    "ablation": "Without it one of these tokens is among the five that fall most; adding it raises the first "
    "no more than some control.",
    "none": "Neither adding it nor taking it away moves these tokens beyond chance.",
    "untested": "It was not drawn to be steered: the list is read off its direction, not tested.",
    "dead": "Fires on fewer than one token in 100,000: nothing is known about what it does.",
}
RELATION_WORDS: dict[str, str] = {
    "on": "fires on the word",
    "after": "fires on the token after the word",
    "before": "fires on the token before the word",
    "near": "fires where the word is among the 2nd to 16th tokens before",
}


class FeatureRef(Record):
    """A feature as other records point at it, or a row of a token look-up. `id` is `model/source/index`."""

    id: str
    model: str
    source: str
    layer: int
    index: int
    relation: Relation | None = Field(
        None, description="what it has to do with `words`; null where no word and relation could be chosen"
    )
    words: list[Token] = Field([], description="up to three words, each shown by its commonest token")
    share: float | None = measured(FEATURE["relation_share"], None)
    verdict: Verdict = Field(description="on its relation to `words`")
    name: Token = Field(description="the anchor nearest to its direction")
    cosine: float = measured(FEATURE["cosine"])
    density: float = measured(FEATURE["density"])
    writes: list[Token] = Field(
        [], description="the first three tokens it writes, by the lens of its page; none of a look-up's row"
    )
    write_verdict: WriteVerdict = Field("untested", description="which intervention confirms what it writes")
    direction: Direction = Field(
        "feature",
        description="or a direction of a token, which is no feature and can be added and nothing else: its "
        "row of the dictionary's look-up (`id` is `model/source/token-<id>`), its raw embedding "
        "(`model/source/embedding-<id>`) or its direction by the Jacobian lens "
        "(`model/source/jacobian-<id>`). `index` is then the token's id, and `density` its share of the text "
        "that the model was last indexed over",
    )

    @property
    def row(self) -> bool:
        """Whether it is the direction of a token."""
        return self.direction != "feature"


class RaisedBy(Record):
    """A direction that was steered, and how far it raised the probability of a token."""

    kind: Direction = Field(
        description="a feature, the token's row of a look-up, its raw embedding, or its direction by the "
        "Jacobian lens"
    )
    source: str = Field(description="the dictionary at whose layer it was added")
    layer: int
    feature: FeatureRef = Field(description="the feature, or the token's direction, to steer by")
    rise: float = Field(
        description="of the token's probability at the last position of neutral prefixes, at a KL "
        "divergence of 0.5 nats"
    )
    control: float = Field(description="the largest rise of the token among controls of the same KL")
    strength: float = Field(description="length that was added, in mean residual norms of the layer")
    above: bool = Field(description="whether the token rises, and by more than every control")


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


class Moments(Record):
    """Of the activation, over the positions where the feature fires; absent where one of them is null."""

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


class RelationName(Record):
    """What a feature fires on: a relation to up to three words, chosen on one half of the passages and judged
    on the other.
    """

    relation: Relation
    words: list[ScoredToken] = Field(
        description="each shown by its commonest token; score = share of the judged firings in the relation "
        "to this word or one before it"
    )
    share: float = measured(FEATURE["relation_share"])
    low: float = measured(FEATURE["relation_low"])
    high: float = measured(FEATURE["relation_high"])
    chance: float = measured(FEATURE["relation_chance"])
    lift: float = measured(FEATURE["relation_lift"])
    q: float = measured(FEATURE["relation_q"])
    judged_firings: int = measured(FEATURE["judged_firings"])
    judged_passages: int = measured(FEATURE["judged_passages"])


class WrittenToken(ScoredToken):
    """A token that a feature should write, and what interventions do to it."""

    ablation_rank: float | None = Field(
        None,
        description="median rank among the logits that fall without the feature, 0 = falls most; null where "
        "it was not ablated",
    )
    rise: float | None = Field(
        None,
        description="of its probability, as write_rise; null where the feature was not steered",
    )


class Writing(Record):
    """What a feature writes: the first tokens of its write list, and two interventions that test them."""

    lens: Literal["jacobian", "logit"] = Field(description="what the list was read off the direction by")
    tokens: list[WrittenToken] = Field(description="score = logit")
    ablation: Share | None = measured(FEATURE["write_top5"], None)
    q_ablation: float | None = measured(FEATURE["q_write"], None)
    rise: float | None = measured(FEATURE["write_rise"], None)
    control: float | None = measured(FEATURE["write_control"], None)
    strength: float | None = measured(FEATURE["write_strength"], None)


class NameEvidence(Record):
    """Does the feature do what its nearest anchor says? Shares of its firings on the passages that evidence
    is counted on: the half that names are judged on, or the contexts of an import. `n_firings` are all.
    """

    n_firings: int = measured(FEATURE["n_firings"])
    reads_here: Share = measured(FEATURE["reads_here"])
    reads_family: Share = measured(FEATURE["reads_family"])
    reads_near: Share = measured(FEATURE["reads_near"])
    recall: float = measured(FEATURE["recall"])
    predicts: Share = measured(FEATURE["predicts"])
    q_reads: float = measured(FEATURE["q_reads"])
    q_predicts: float = measured(FEATURE["q_predicts"])
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
    fires: RelationName | None = Field(
        None, description="what it fires on; absent where no word and relation could be chosen and judged"
    )
    verdict: Verdict = Field(description="on `fires`")
    verdict_words: str
    writing: Writing | None = Field(
        None, description="what it writes; absent where nothing is known of its direction"
    )
    write_verdict: WriteVerdict = Field(description="on `writing`, by intervention alone")
    write_verdict_words: str
    name: Token = Field(description="the anchor nearest to its direction")
    cosine: float = measured(FEATURE["cosine"])
    cosine_embedding: float = measured(FEATURE["cosine_embedding"])
    assigned: Token | None = Field(None, description="the anchor it was trained towards")
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
    negative_share: float | None = measured(FEATURE["negative_share"], None)
    moments: Moments | None = None
    histogram: Histogram
    positions: PositionHistogram
    logits_positive: list[ScoredToken]
    logits_negative: list[ScoredToken]
    writes: list[ScoredToken] = Field(
        [],
        description="tokens whose logits its direction raises most, carried to the last layer by the "
        "Jacobian lens; empty where the lens was not fitted",
    )
    evidence: NameEvidence | None = Field(
        None,
        description="absent where the feature never fired in the passages that names are judged on, or in "
        "the contexts of an import",
    )
    afterwards: Afterwards | None = None
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
