"""The levels that measures are of, in the order in which pages and documents list them."""

from collections.abc import Mapping
from typing import NamedTuple

from lexiscope.measures.dictionary import DERIVED, DICTIONARY
from lexiscope.measures.feature import FEATURE
from lexiscope.measures.measure import Measure
from lexiscope.measures.run import RUN
from lexiscope.measures.training import TRAINING


class Level(NamedTuple):
    title: str
    measures: Mapping[str, Measure]
    file: str = ""
    """that a run writes them to"""


LEVELS = (
    Level("Of a feature, on the indexed text", FEATURE),
    Level("Of a dictionary, on the indexed text", {**DICTIONARY, **DERIVED}),
    Level("Of a run, on held-out text", RUN, "metrics.json"),
    Level("Of a run while it trains", TRAINING, "train.jsonl"),
)
"""A measure may be of several; the first one defines it."""
