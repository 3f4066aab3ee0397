"""What REST returns beside the pages' records: lists of dictionaries, features and tokens."""

from pydantic import Field

from lexiscope.records.dictionary import LayerSummary
from lexiscope.records.feature import FeatureRef, Neighbour
from lexiscope.records.pages import FeatureRow, Filters, ListCounts, TokenHit
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
    counts: ListCounts
    start: int = Field(description="features of the list before the first of this page")
    features: list[FeatureRow]
    next: str | None = Field(None, description="opaque cursor of the next page; null on the last")
    previous: str | None = Field(None, description="cursor of the page before; null on the first")


class FilteredFeatures(Record):
    """One page of the features of all dictionaries."""

    build: str
    filters: Filters
    features: list[FeatureRow]
    next: str | None = Field(None, description="opaque cursor of the next page; null on the last")
    previous: str | None = Field(None, description="cursor of the page before; null on the first")


class TokenList(Record):
    """Tokens that a person may mean who has typed `prefix`: its spellings (case, leading space) by their
    occurrences, then longer tokens by theirs.
    """

    build: str
    model: str | None = Field(None, description="null where the tokens are of all models")
    prefix: str
    tokens: list[TokenHit]
