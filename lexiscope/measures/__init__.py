"""Every number that the product reports, defined once: columns of the index, fields of the records, keys of
`metrics.json`, headings on pages and in terminals, `docs/columns.md` and the tables of `docs/method.md`.

To add a measure: an entry in the table of its level, the code that computes it, and the field of the record
that holds it.
"""

from lexiscope.measures.dictionary import DERIVED, DICTIONARY, FOUND, OFTEN, RECORDED
from lexiscope.measures.feature import FEATURE, WRITTEN
from lexiscope.measures.levels import LEVELS
from lexiscope.measures.measure import CHANCE, DIGITS, Measure, Place, Unit, as_text, placed
from lexiscope.measures.run import RUN
from lexiscope.measures.training import TRAINING

__all__ = [
    "CHANCE",
    "DERIVED",
    "DICTIONARY",
    "DIGITS",
    "FEATURE",
    "FOUND",
    "LEVELS",
    "OFTEN",
    "RECORDED",
    "RUN",
    "TRAINING",
    "WRITTEN",
    "Measure",
    "Place",
    "Unit",
    "as_text",
    "placed",
]
