"""Text files and data sets in; passages (token ids that open with BOS) and padded batches of them out."""

from lexiscope.text.batches import Batch, batches
from lexiscope.text.documents import END, documents, fingerprint
from lexiscope.text.passages import passages

__all__ = ["END", "Batch", "batches", "documents", "fingerprint", "passages"]
