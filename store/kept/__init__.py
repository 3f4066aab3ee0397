"""What people give the server and no build holds: labels and lists of features, API keys and their use. It is
kept beside the builds, in SQLite files of the index folder or in the `lexiscope` schema of PostgreSQL, and
stays when the index is made again.
"""

from store.kept.database import MOST_ID
from store.kept.keys import ApiKeys, Granted, KeyExists, KeyInfo, KeyRefused, LimitReached
from store.kept.labels import Labels
from store.kept.lists import KeptFeatures, KeptLists

__all__ = [
    "MOST_ID",
    "ApiKeys",
    "Granted",
    "KeptFeatures",
    "KeptLists",
    "KeyExists",
    "KeyInfo",
    "KeyRefused",
    "Labels",
    "LimitReached",
]
