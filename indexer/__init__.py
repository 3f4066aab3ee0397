"""The indexer: what every feature of a dictionary really does, over a text. `index` is the door."""

from indexer.indexing import IndexingError, index

__all__ = ["IndexingError", "index"]
