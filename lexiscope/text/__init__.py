"""Text files and data sets in; passages (token ids that open with BOS) and padded batches of them out."""

from lexiscope.text.batches import Batch, batches
from lexiscope.text.documents import documents
from lexiscope.text.passages import Passages, passages
from lexiscope.text.plain import END
from lexiscope.text.report import TextReport
from lexiscope.text.request import FORMATS, Text, fingerprint
from lexiscope.text.spool import Sourced

__all__ = [
    "END",
    "FORMATS",
    "Batch",
    "Passages",
    "Sourced",
    "Text",
    "TextReport",
    "batches",
    "documents",
    "fingerprint",
    "passages",
]
