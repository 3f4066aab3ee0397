"""The index: the schema, the bulk writer, the queries. The only SQL in the project; what comes out is
`lexiscope.records`.
"""

from store.errors import BadCursor, BuilderBusy, NoIndex, NotFound, StoreError, Unreachable, WrongVersion
from store.read.export import TABLES, Snapshot, arrow_schema, columns_document
from store.read.store import Place, Resolved, Store
from store.schema import SCHEMA_VERSION
from store.write.build_writer import Builder, Kept

__all__ = [
    "SCHEMA_VERSION",
    "TABLES",
    "BadCursor",
    "Builder",
    "BuilderBusy",
    "Kept",
    "NoIndex",
    "NotFound",
    "Place",
    "Resolved",
    "Snapshot",
    "Store",
    "StoreError",
    "Unreachable",
    "WrongVersion",
    "arrow_schema",
    "columns_document",
]
