"""`/compare`: two dictionaries of one model beside each other."""

from pydantic import Field

from lexiscope.records.dictionary import LayerSummary
from lexiscope.records.feature import FeatureRef
from lexiscope.records.live import ReadResponse
from lexiscope.records.pages import Filters
from lexiscope.records.record import Histogram, Record


class FeatureMatch(Record):
    """A feature of the left dictionary and its counterparts in the right one."""

    feature: FeatureRef
    nearest: FeatureRef | None = Field(
        None, description="the right feature whose direction has the largest cosine to its own"
    )
    cosine: float | None = Field(None, description="that cosine")
    named: list[FeatureRef] = Field(
        description="right features with the same relation to the same first word, the best evidence first"
    )


class MatchSummary(Record):
    """How the left dictionary's live features match the right one's, from a sample of them."""

    sampled: int = Field(description="live features of the left dictionary, drawn once by a fixed seed")
    median: float = Field(description="median of their largest cosines to any right feature")
    share_08: float = Field(description="share of them with a cosine of at least 0.8")
    share_05: float = Field(description="share of them with a cosine of at least 0.5")
    random_median: float = Field(
        description="the median for as many random directions of the left directions' covariance: chance"
    )
    judged: int = Field(description="those of the sample whose name holds (specific, partial or weak)")
    same_name: float | None = Field(
        None,
        description="share of the judged whose nearest right feature has the same relation to the same first "
        "word; null where none is judged",
    )
    cosines: Histogram = Field(description="the largest cosines in bins of 0.05; zeros: those below 0")


class ComparePage(Record):
    """`/compare`: figures of both dictionaries, the left one's features with their counterparts, and a text
    read with both.
    """

    build: str
    model: str
    left: LayerSummary
    right: LayerSummary
    summary: MatchSummary | None = Field(None, description="null where `notes` says why")
    filters: Filters = Field(description="of the left dictionary's features")
    matches: list[FeatureMatch]
    next: str | None = Field(None, description="opaque cursor of the next page; null on the last")
    previous: str | None = Field(None, description="cursor of the page before; null on the first")
    read: ReadResponse | None = Field(None, description="`text` read with both; null without a text")
    notes: list[str] = Field([], description="what could not be compared, and why")
