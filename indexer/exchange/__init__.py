"""Indexes in and out: Parquet, and the formats of Neuronpedia and SAEDashboard."""

from indexer.exchange.errors import ExchangeError, ImportRefused
from indexer.exchange.merge_into_index import PublishedImport
from indexer.exchange.neuronpedia.export import (
    CREATOR,
    NeuronpediaExport,
    NeuronpediaExportRequest,
    export_neuronpedia,
)
from indexer.exchange.neuronpedia.importing import (
    NeuronpediaImport,
    NeuronpediaImportRequest,
    import_neuronpedia,
)
from indexer.exchange.parquet import ParquetExport, export_parquet, import_parquet

__all__ = [
    "CREATOR",
    "ExchangeError",
    "ImportRefused",
    "NeuronpediaExport",
    "NeuronpediaExportRequest",
    "NeuronpediaImport",
    "NeuronpediaImportRequest",
    "ParquetExport",
    "PublishedImport",
    "export_neuronpedia",
    "export_parquet",
    "import_neuronpedia",
    "import_parquet",
]
