"""What REST returns beside the pages' records: lists of dictionaries, features and tokens."""

from pydantic import Field

from lexiscope.records.dictionary import LayerSummary
from lexiscope.records.feature import FeatureRef, Neighbour
from lexiscope.records.pages import Filters, TokenHit
from lexiscope.records.record import Record


class DictionaryList(Record):
    """Every dictionary of the index, or of one model, by model and layer."""

    build: str
    dictionaries: list[LayerSummary]


class FeatureBatch(Record):
    """Features by their ids, in the order of the ids."""

    build: str
    features: list[FeatureRef]


class SimilarFeatures(Record):
    """The features whose directions have the highest cosines to that of the feature `id`, highest first."""

    build: str
    id: str
    features: list[Neighbour]


class FeatureList(Record):
    """One page of a dictionary's features."""

    build: str
    filters: Filters
    features: list[FeatureRef]
    next: str | None = Field(None, description="opaque cursor of the next page; null on the last")


class TokenList(Record):
    """Tokens that a person may mean who has typed `prefix`: its spellings (case, leading space) by their
    occurrences, then longer tokens by theirs.
    """

    build: str
    model: str
    prefix: str
    tokens: list[TokenHit]
