"""A feature of the index in Neuronpedia's words."""

from collections.abc import Iterable, Sequence
from hashlib import sha256

from lexiscope import tokens
from lexiscope.neuronpedia import (
    DEFAULT_STRENGTH,
    EXPLANATION_MODEL,
    EXPLANATION_TYPE,
    description,
    frequency_bars,
    notes,
    short,
    short_number,
)
from lexiscope.records import Context, FeaturePage, FeatureRecord, FeatureRef, Token, set_of
from server.neuronpedia.records import (
    BriefFeature,
    NeuronpediaActivation,
    NeuronpediaExplanation,
    NeuronpediaFeature,
    NeuronpediaModel,
    NeuronpediaSource,
    NeuronpediaSourceSet,
)
from store import DictionaryEntry

CREATOR = "Lexiscope"
QUANTILES = 5
"""parts of a feature's firings that its contexts are drawn from"""


def plain_text(token: Token) -> str:
    return tokens.plain(bytes.fromhex(token.raw), token.shown)


def plain_texts(some: Iterable[Token]) -> list[str]:
    return [plain_text(token) for token in some]


def neuronpedia_feature(
    page: FeaturePage, entry: DictionaryEntry, *, contexts: int | None = None
) -> NeuronpediaFeature:
    """A feature's page, with at most `contexts` of its contexts."""
    f = page.feature
    middles, heights = frequency_bars(f.histogram.edges, f.histogram.counts)
    set_name = set_of(f.source)
    return NeuronpediaFeature(
        modelId=f.model,
        layer=f.source,
        index=str(f.index),
        sourceSetName=set_name,
        creator={"name": CREATOR},
        maxActApprox=short_number(f.max_activation),
        frac_nonzero=short_number(f.density),
        vectorDefaultSteerStrength=DEFAULT_STRENGTH,
        hookName=entry.hook_name,
        topkCosSimIndices=[other.index for other in f.neighbours],
        topkCosSimValues=short([other.similarity for other in f.neighbours]),
        pos_str=plain_texts(f.logits_positive),
        pos_values=short([token.score for token in f.logits_positive]),
        neg_str=plain_texts(f.logits_negative),
        neg_values=short([token.score for token in f.logits_negative]),
        freq_hist_data_bar_values=middles,
        freq_hist_data_bar_heights=heights,
        activations=activations(f, entry.corpus)[:contexts],
        explanations=[explanation(f)],
        model=NeuronpediaModel(id=f.model, displayName=f.model, dimension=entry.d_in),
        source=NeuronpediaSource(
            id=f.source,
            modelId=f.model,
            setName=set_name,
            dataset=entry.corpus,
            num_prompts=entry.n_passages,
            num_tokens_in_prompt=round(entry.n_tokens / entry.n_passages) if entry.n_passages else 0,
        ),
        sourceSet=NeuronpediaSourceSet(
            modelId=f.model,
            name=set_name,
            description=f"features of {f.model} named by its own vocabulary ({f.recipe})",
            creatorName=CREATOR,
        ),
    )


def brief_feature(ref: FeatureRef) -> BriefFeature:
    return BriefFeature(
        modelId=ref.model,
        layer=ref.source,
        index=str(ref.index),
        sourceSetName=set_of(ref.source),
        frac_nonzero=short_number(ref.density),
        explanations=[explanation(ref)],
    )


def explanation(feature: FeatureRecord | FeatureRef) -> NeuronpediaExplanation:
    """The name, as an explanation."""
    if isinstance(feature, FeatureRef):
        relation, words, share = feature.relation, [word.shown for word in feature.words], feature.share
        anchors = "an anchor"
    else:
        fires = feature.fires
        relation, share = (fires.relation, fires.share) if fires else (None, None)
        words = [word.shown for word in fires.words] if fires else []
        anchors = feature.anchor_kind
    return NeuronpediaExplanation(
        id=_id("explanation", feature.id),
        modelId=feature.model,
        layer=feature.source,
        source=feature.source,
        index=str(feature.index),
        description=description(feature.name.shown, relation, words, share, feature.verdict),
        notes=notes(feature.name.shown, feature.name.id, anchors, feature.cosine),
        typeName=EXPLANATION_TYPE,
        explanationModelName=EXPLANATION_MODEL,
    )


def activations(feature: FeatureRecord, corpus: str) -> list[NeuronpediaActivation]:
    """The contexts. Near misses, in which the feature does not fire, have no place here."""
    firing = [context for context in feature.contexts if context.kind != "near_miss"]
    spans: dict[int | None, list[float]] = {}
    for context in firing:
        spans.setdefault(context.quantile, []).append(context.value)
    return [
        _activation(
            feature, corpus, number, context, None if context.kind == "top" else spans[context.quantile]
        )
        for number, context in enumerate(firing)
    ]


def _activation(
    feature: FeatureRecord, corpus: str, number: int, context: Context, span: Sequence[float] | None
) -> NeuronpediaActivation:
    """`span` has the activations of a quantile's contexts; None for the strongest contexts."""
    values = short(context.values)
    highest = max(values)
    return NeuronpediaActivation(
        id=_id("activation", feature.id, number),
        modelId=feature.model,
        layer=feature.source,
        source=feature.source,
        index=str(feature.index),
        tokens=plain_texts(context.tokens),
        values=values,
        maxValue=highest,
        maxValueTokenIndex=values.index(highest),
        minValue=min(values),
        dataIndex=str(context.passage),
        dataSource=corpus,
        binMin=-1.0 if span is None else short_number(min(span)),
        binMax=short_number(feature.max_activation if span is None else max(span)),
        binContains=None if span is None else short_number(feature.density / QUANTILES),
        qualifyingTokenIndex=context.position,
    )


def _id(*parts: object) -> str:
    return "lx" + sha256("/".join(map(str, parts)).encode()).hexdigest()[:23]
