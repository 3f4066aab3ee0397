"""The indexer: measures what every feature of a dictionary does on a text. `index` is the entry point."""

from indexer.errors import IndexingError
from indexer.job import IndexRequest, index
from indexer.text_pass.blocks import parse_shard

__all__ = ["IndexRequest", "IndexingError", "index", "parse_shard"]
