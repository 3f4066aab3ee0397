"""One feature, from three queries: its row, its contexts in their passages, its neighbours."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from lexiscope.measures import FEATURE, WRITTEN
from lexiscope.records import (
    CONTEXT_AFTER,
    CONTEXT_BEFORE,
    VERDICT_WORDS,
    WRITE_VERDICT_WORDS,
    Afterwards,
    CausalEvidence,
    Coactive,
    Context,
    FeaturePage,
    FeatureRecord,
    FeatureRef,
    Filters,
    Histogram,
    Moments,
    NameEvidence,
    Neighbour,
    PositionHistogram,
    Record,
    RelationName,
    Share,
    Writing,
    WrittenToken,
    measures_of,
)
from store import schema
from store.errors import NotFound
from store.read.list_counts import list_place, within
from store.read.open_build import REF_COLUMNS, DictionaryEntry, OpenBuild, Row, integer_parameter, scored
from store.read.token_rows import DIRECTION_ID, DIRECTION_IDS, direction_refs
from store.read.vocabulary import SearchVocabulary

MAX_REFS = 64
MAX_CONTEXTS = 1000
CONTEXT, LISTING = schema.context.c, schema.listing.c

ROW = sa.select(schema.feature).where(sa.bindparam("key", type_=sa.BigInteger) == schema.FEATURE_KEY)
CONTEXTS = (
    sa.select(
        schema.context,
        schema.passage.c.tokens[
            sa.func.greatest(CONTEXT.position - CONTEXT_BEFORE, 0) + 1 : CONTEXT.position + CONTEXT_AFTER + 1
        ].label("tokens"),
    )
    .join(schema.passage, schema.passage.c.passage_id == CONTEXT.passage)
    .where(
        CONTEXT.dictionary_id == integer_parameter("dictionary"),
        CONTEXT.feature == integer_parameter("feature"),
    )
    .limit(MAX_CONTEXTS)
)
REFS = sa.select(*REF_COLUMNS).where(
    LISTING.key.in_(sa.bindparam("keys", type_=sa.BigInteger, expanding=True))
)


class _MeasureReader:
    """Reads the measures of a record from a row of `feature`, by the places of their columns."""

    def __init__(self, record: type[Record]) -> None:
        places = {column.name: place for place, column in enumerate(schema.feature.columns)}
        held = [(field, m) for field, m in measures_of(record).items() if m is FEATURE.get(m.name)]
        self._values = [(field, places[m.name]) for field, m in held if not m.chance]
        self._shares = [(field, places[m.name], places[m.chance]) for field, m in held if m.chance]

    def __call__(self, row: Row) -> dict[str, Any]:
        """{field: value}; a share is None where it or its chance is."""
        values: dict[str, Any] = {field: row[place] for field, place in self._values}
        for field, place, chance in self._shares:
            value, null = row[place], row[chance]
            values[field] = None if value is None or null is None else Share(value=value, null=null)
        return values


FEATURE_MEASURES, MOMENTS = _MeasureReader(FeatureRecord), _MeasureReader(Moments)
RELATION, WRITING, EVIDENCE, CAUSAL, AFTERWARDS = (
    _MeasureReader(RelationName),
    _MeasureReader(Writing),
    _MeasureReader(NameEvidence),
    _MeasureReader(CausalEvidence),
    _MeasureReader(Afterwards),
)


def feature_page(
    build: OpenBuild, model: str, source: str, index: int, filters: Filters | None = None
) -> FeaturePage:
    """`/{model}/{source}/{index}`, in the list of the dictionary's features that `filters` give. Raises
    NotFound.
    """
    entry = build.dictionary(model, source)
    _check_index(entry, index)
    rows = build.rows(ROW, key=schema.key_of(entry.dictionary_id, index))
    if not rows:
        raise _without(entry, index)
    row, vocabulary = rows[0], build.vocabulary(model)
    return FeaturePage(
        build=build.id,
        dictionary=entry.summary,
        previous_source=_source(build, entry.previous_dictionary),
        next_source=_source(build, entry.next_dictionary),
        place=list_place(build, entry, within(entry, filters or Filters()), index),
        feature=_record(build, entry, row, vocabulary),
    )


def _source(build: OpenBuild, dictionary_id: int | None) -> str | None:
    return None if dictionary_id is None else build.dictionaries[dictionary_id].source


def _check_index(entry: DictionaryEntry, index: int) -> None:
    if not 0 <= index < entry.d_sae:
        raise NotFound(
            f"{entry.id} has no feature {index}: it has {entry.d_sae:,} features, 0 to {entry.d_sae - 1}"
        )


def _without(entry: DictionaryEntry, index: int) -> NotFound:
    return NotFound(f"{entry.id} was indexed without feature {index}")


def _record(
    build: OpenBuild, entry: DictionaryEntry, row: Row, vocabulary: SearchVocabulary
) -> FeatureRecord:
    here, previous, following, previous_coactive, next_coactive = _related(
        build,
        (entry.dictionary_id, row.neighbour_index, row.neighbour_cosine),
        (entry.previous_dictionary, row.previous_index, row.previous_cosine),
        (entry.next_dictionary, row.next_index, row.next_cosine),
        (entry.previous_dictionary, row.previous_coactive_index, row.previous_coactive_jaccard),
        (entry.next_dictionary, row.next_coactive_index, row.next_coactive_jaccard),
    )
    return FeatureRecord(
        **FEATURE_MEASURES(row),
        id=f"{entry.id}/{row[1]}",
        model=entry.model,
        source=entry.source,
        layer=entry.layer,
        index=row[1],
        d_sae=entry.d_sae,
        recipe=entry.recipe,
        fires=_fires(row, vocabulary),
        verdict=row.verdict,
        verdict_words=VERDICT_WORDS[row.verdict],
        writing=_writing(row, vocabulary),
        write_verdict=row.write_verdict,
        write_verdict_words=WRITE_VERDICT_WORDS[row.write_verdict],
        name=vocabulary.get(row.name_token),
        assigned=None if row.assigned_token is None else vocabulary.get(row.assigned_token),
        anchor_kind=row.anchor_kind,
        bucket=row.bucket,
        next_names=scored(vocabulary, row.next_tokens, row.next_cosines),
        random_cosine=entry.summary.random_cosine,
        phrase=vocabulary.shown(row.phrase_tokens),
        n_tokens=entry.n_tokens,
        moments=_moments(row),
        histogram=Histogram(
            edges=entry.histogram_edges, counts=row.histogram, zeros=entry.n_tokens - row.n_firings
        ),
        positions=PositionHistogram(
            edges=entry.position_edges, counts=row.positions, totals=entry.position_totals
        ),
        logits_positive=scored(vocabulary, row.pos_tokens, row.pos_values),
        logits_negative=scored(vocabulary, row.neg_tokens, row.neg_values),
        writes=scored(vocabulary, row.write_tokens, row.write_values),
        evidence=_evidence(row),
        afterwards=_afterwards(row, vocabulary),
        contexts=_contexts(build, entry, row[1], vocabulary),
        neighbours=[Neighbour(**dict(ref), similarity=cosine) for ref, cosine in here],
        previous_layer=[Neighbour(**dict(ref), similarity=cosine) for ref, cosine in previous],
        next_layer=[Neighbour(**dict(ref), similarity=cosine) for ref, cosine in following],
        previous_coactive=[Coactive(**dict(ref), jaccard=jaccard) for ref, jaccard in previous_coactive],
        next_coactive=[Coactive(**dict(ref), jaccard=jaccard) for ref, jaccard in next_coactive],
    )


def _moments(row: Row) -> Moments | None:
    values = MOMENTS(row)
    return None if None in values.values() else Moments(**values)


def _fires(row: Row, vocabulary: SearchVocabulary) -> RelationName | None:
    if row.relation is None or row.relation_share is None:
        return None
    words = scored(vocabulary, row.word_tokens, row.word_shares)
    return RelationName(**RELATION(row), relation=row.relation, words=words)


def _writing(row: Row, vocabulary: SearchVocabulary) -> Writing | None:
    lens = bool(row.write_tokens)
    ids, logits = (row.write_tokens, row.write_values) if lens else (row.pos_tokens, row.pos_values)
    tokens = scored(vocabulary, ids[:WRITTEN], logits[:WRITTEN])
    if not tokens:
        return None
    ranks, rises = (tuned or [None] * len(tokens) for tuned in (row.write_ranks, row.write_rises))
    return Writing(
        **WRITING(row),
        lens="jacobian" if lens else "logit",
        tokens=[
            WrittenToken(**dict(token), ablation_rank=rank, rise=rise)
            for token, rank, rise in zip(tokens, ranks, rises, strict=True)
        ],
    )


def _evidence(row: Row) -> NameEvidence | None:
    return None if row.reads_here is None else NameEvidence(**EVIDENCE(row), causal=_causal(row))


def _causal(row: Row) -> CausalEvidence | None:
    return CausalEvidence(**CAUSAL(row)) if row.ablation_contexts else None


def _afterwards(row: Row, vocabulary: SearchVocabulary) -> Afterwards | None:
    if not row.pos_tokens:
        return None
    [logit] = scored(vocabulary, row.pos_tokens[:1], row.pos_values[:1])
    lift = None if row.lift_token is None else scored(vocabulary, [row.lift_token], [row.lift_share])[0]
    return Afterwards(**AFTERWARDS(row), lift=lift, logit=logit)


def _contexts(
    build: OpenBuild, entry: DictionaryEntry, index: int, vocabulary: SearchVocabulary
) -> list[Context]:
    """In the order of the page. A feature that fires little has the same position among the strongest and in
    a sample of its firings: it is listed once.
    """
    found = build.rows(CONTEXTS, dictionary=entry.dictionary_id, feature=index)
    rows = sorted(
        found, key=lambda row: (schema.CONTEXT_KINDS.index(row.kind), -(row.quantile or 0), row.rank)
    )
    once = {(row.passage, row.position): row for row in reversed(rows)}
    return [_context(row, vocabulary) for row in rows if once[row.passage, row.position] is row]


def _context(row: Row, vocabulary: SearchVocabulary) -> Context:
    start = max(0, row.position - CONTEXT_BEFORE)
    values = [0.0] * len(row.tokens)
    for position, value in zip(row.positions, row._mapping["values"], strict=True):
        if 0 <= position - start < len(values):
            values[position - start] = value
    return Context(
        kind=row.kind,
        quantile=row.quantile,
        passage=row.passage,
        position=row.position - start,
        value=row.value,
        tokens=vocabulary.shown(row.tokens),
        values=values,
    )


def _related(
    build: OpenBuild, *lists: tuple[int | None, Sequence[int], Sequence[float]]
) -> list[list[tuple[FeatureRef, float]]]:
    """The features of each list (dictionary id or None, indices, scores) with their scores, in order. All are
    looked up in one query.
    """
    wanted = [
        (dictionary_id, index)
        for dictionary_id, indices, _ in lists
        if dictionary_id is not None
        for index in indices
    ]
    refs = _refs(build, wanted)
    related: list[list[tuple[FeatureRef, float]]] = []
    for dictionary_id, indices, scores in lists:
        keys = [] if dictionary_id is None else [(dictionary_id, index) for index in indices]
        related.append([(refs[key], score) for key, score in zip(keys, scores, strict=False) if key in refs])
    return related


def _refs(build: OpenBuild, wanted: Sequence[tuple[int, int]]) -> dict[tuple[int, int], FeatureRef]:
    keys = {schema.key_of(*pair) for pair in wanted}
    return {(row[0], row[1]): build.ref(row) for row in build.rows(REFS, keys=list(keys))} if keys else {}


def feature_refs(build: OpenBuild, feature_ids: Sequence[str]) -> list[FeatureRef]:
    """References for ids of features (`model/source/index`) or of directions of tokens
    (`model/source/token-<id>`, `embedding-<id>`, `jacobian-<id>`), in their order; at most MAX_REFS. Raises
    NotFound for the first that does not exist.
    """
    if len(feature_ids) > MAX_REFS:
        raise NotFound(f"{len(feature_ids)} features requested at once: at most {MAX_REFS}")
    found: dict[str, FeatureRef] = {}
    keys: dict[str, tuple[int, int]] = {}
    for feature_id in feature_ids:
        model, _, rest = feature_id.partition("/")
        source, _, last = rest.partition("/")
        if of_token := DIRECTION_ID.fullmatch(last):
            entry, kind = build.dictionary(model, source), DIRECTION_IDS[of_token[1]]
            [found[feature_id]] = direction_refs(build, entry, [int(of_token[2])], kind)
        else:
            keys[feature_id] = _parsed(build, feature_id)
    refs = _refs(build, list(keys.values()))
    for feature_id, key in keys.items():
        if key not in refs:
            raise _without(build.dictionaries[key[0]], key[1])
        found[feature_id] = refs[key]
    return [found[feature_id] for feature_id in feature_ids]


def _parsed(build: OpenBuild, feature_id: str) -> tuple[int, int]:
    parts = feature_id.split("/")
    if len(parts) != 3 or not (parts[2].isascii() and parts[2].isdigit() and len(parts[2]) < 11):
        raise NotFound(
            f"{feature_id!r} is not a feature: write model/source/index, for example gpt2-small/6-vasae/4242"
        )
    entry = build.dictionary(parts[0], parts[1])
    _check_index(entry, int(parts[2]))
    return entry.dictionary_id, int(parts[2])
