"""Indexes in and out: Parquet, and the formats of Neuronpedia and SAEDashboard."""

from indexer.exchange.folders import ExchangeError
from indexer.exchange.merging import Merged
from indexer.exchange.parquet import export_parquet, import_parquet

__all__ = ["ExchangeError", "Merged", "export_parquet", "import_parquet"]
