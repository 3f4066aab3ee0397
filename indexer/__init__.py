"""The indexer: what every feature of a dictionary really does, over a text. `index` is the door."""

from indexer.counts.state import IndexingError
from indexer.job import Ask, index
from indexer.text_pass.blocks import parse_shard

__all__ = ["Ask", "IndexingError", "index", "parse_shard"]
