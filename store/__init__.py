"""The index: the schema, the bulk writer, the queries. The only SQL in the project; what comes out is
`lexiscope.records`.
"""

from store.errors import (
    BadCursor,
    BuildLocked,
    Conflict,
    NoIndex,
    NotFound,
    StoreError,
    Unreachable,
    WrongVersion,
)
from store.kept import (
    MOST_ID,
    ApiKeys,
    Granted,
    KeptFeatures,
    KeptLists,
    KeyExists,
    KeyInfo,
    KeyRefused,
    Labels,
    LimitReached,
)
from store.read.compare_page import ComparedDictionaries
from store.read.export import TABLES, BuildSnapshot, arrow_schema, columns_document
from store.read.open_build import DictionaryEntry
from store.read.store import IndexedDictionary, ResolvedName, Store
from store.read.whole_list import ListedNumbers
from store.schema import CONTEXT_KINDS, SCHEMA_VERSION
from store.write.build_writer import BuildWriter, KeptDictionaries

__all__ = [
    "CONTEXT_KINDS",
    "MOST_ID",
    "SCHEMA_VERSION",
    "TABLES",
    "ApiKeys",
    "BadCursor",
    "BuildLocked",
    "BuildSnapshot",
    "BuildWriter",
    "ComparedDictionaries",
    "Conflict",
    "DictionaryEntry",
    "Granted",
    "IndexedDictionary",
    "KeptDictionaries",
    "KeptFeatures",
    "KeptLists",
    "KeyExists",
    "KeyInfo",
    "KeyRefused",
    "Labels",
    "LimitReached",
    "ListedNumbers",
    "NoIndex",
    "NotFound",
    "ResolvedName",
    "Store",
    "StoreError",
    "Unreachable",
    "WrongVersion",
    "arrow_schema",
    "columns_document",
]
