"""What the index says of two dictionaries of one model: their figures, a page of the left one's features, and
the right one's features of the same names.
"""

import random
from collections.abc import Sequence
from typing import NamedTuple

import sqlalchemy as sa

from lexiscope.records import FeatureRef, Filters, LayerSummary
from store import schema
from store.errors import NotFound
from store.read.listing import LISTING, list_features
from store.read.open_build import REF_COLUMNS, DictionaryEntry, OpenBuild
from store.read.vocabulary import SearchVocabulary

SAMPLE = 256
"""live features that a comparison is summarised over"""
SHOWN = 3
"""features of one name that are listed"""
NAMED = schema.by_name.c


class ComparedDictionaries(NamedTuple):
    """Two dictionaries, a page of the left one's features, and what to match."""

    build: str
    left: LayerSummary
    right: LayerSummary
    filters: Filters
    features: list[FeatureRef]
    next: str | None
    previous: str | None
    named: list[list[FeatureRef]]
    """for each of `features`, the right dictionary's with the same relation to the same first word"""
    sample: list[int]
    """live features of the left dictionary, drawn by a fixed seed"""


def compare_page(
    build: OpenBuild, model: str, left: str, right: str, filters: Filters
) -> ComparedDictionaries:
    """Raises NotFound for a dictionary that the index lacks, BadCursor."""
    first, second = build.dictionary(model, left), build.dictionary(model, right)
    filters = filters.model_copy(update={"model": model, "source": left, "layer": None})
    listed = list_features(build, filters)
    return ComparedDictionaries(
        build=build.id,
        left=first.summary,
        right=second.summary,
        filters=filters,
        features=[*listed.features],
        next=listed.next,
        previous=listed.previous,
        named=_same_names(build, second, listed.features),
        sample=build.cached(("comparison sample", first.dictionary_id), lambda: _sample(build, first)),
    )


def comparable(build: OpenBuild, model: str | None) -> tuple[str, str, str]:
    """(model, left, right): two dictionaries of one layer where a layer has several, else the first two.
    Raises NotFound where no model has two.
    """
    for name in [model] if model else build.models:
        entries = build.of_model(name)
        for one in entries:
            for other in entries:
                if one.layer == other.layer and one.source != other.source:
                    return name, one.source, other.source
        if len(entries) > 1:
            return name, entries[0].source, entries[1].source
    whose = f"{model} has one dictionary" if model else "no model of the index has two dictionaries"
    raise NotFound(f"{whose}: a comparison needs two of one model")


def _sample(build: OpenBuild, entry: DictionaryEntry) -> list[int]:
    own = (LISTING.dictionary_id == entry.dictionary_id, LISTING.live)
    live = [row[0] for row in build.rows(sa.select(LISTING.index).where(*own).order_by(LISTING.index))]
    return sorted(random.Random(0).sample(live, min(SAMPLE, len(live))))


def _same_names(
    build: OpenBuild, entry: DictionaryEntry, features: Sequence[FeatureRef]
) -> list[list[FeatureRef]]:
    """For each feature, those of `entry` of the same name."""
    vocabulary = build.vocabulary(entry.model)
    names = [name_of(vocabulary, feature) for feature in features]
    tokens = {token for name in names if name for token in vocabulary.of_word(name.word)}
    found: dict[FeatureName, list[FeatureRef]] = {}
    if tokens:
        columns = [NAMED[column.name] for column in REF_COLUMNS]
        own = (NAMED.dictionary_id == entry.dictionary_id, NAMED.by_relation == 1, NAMED.token.in_(tokens))
        rows = build.rows(sa.select(*columns).where(*own).order_by(NAMED.effect.desc(), NAMED.index))
        for ref in map(build.ref, rows):
            if name := name_of(vocabulary, ref):
                alike = found.setdefault(name, [])
                if all(ref.id != other.id for other in alike):
                    alike.append(ref)
    return [found.get(name, [])[:SHOWN] if name else [] for name in names]


class FeatureName(NamedTuple):
    """What dictionaries are compared by. A word is shown by its commonest token in the text that a dictionary
    was indexed over, which another text may change: the word itself it cannot.
    """

    relation: str
    word: int
    """its smallest token id"""


def name_of(vocabulary: SearchVocabulary, feature: FeatureRef) -> FeatureName | None:
    """A feature's relation to its first word; None where it has none."""
    if not feature.relation:
        return None
    return FeatureName(feature.relation, vocabulary.word(feature.words[0].id))
