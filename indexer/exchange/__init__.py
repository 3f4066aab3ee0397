"""Indexes in and out: Parquet, and the formats of Neuronpedia and SAEDashboard."""

from indexer.exchange.export_folder import ExchangeError
from indexer.exchange.merge_into_index import Merged
from indexer.exchange.neuronpedia.export import Written, export_neuronpedia
from indexer.exchange.neuronpedia.importing import Imported, import_neuronpedia
from indexer.exchange.parquet import Exported, export_parquet, import_parquet

__all__ = [
    "ExchangeError",
    "Exported",
    "Imported",
    "Merged",
    "Written",
    "export_neuronpedia",
    "export_parquet",
    "import_neuronpedia",
    "import_parquet",
]
