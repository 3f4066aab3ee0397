"""The indexer: what every feature of a dictionary really does, over a text. `index` is the door."""

from indexer.blocks import parse_shard
from indexer.indexing import Ask, index
from indexer.state import IndexingError

__all__ = ["Ask", "IndexingError", "index", "parse_shard"]
