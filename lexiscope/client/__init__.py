"""A client of a Lexiscope server. Results are the server's own records; lists are iterators over all pages.

    from lexiscope.client import Lexiscope

    with Lexiscope("http://127.0.0.1:8000") as server:
        for feature in server.search(" king", model="demo", verdict="specific"):
            print(feature.id, feature.density)
        for event in server.steer_events("Once upon a time", ["demo/4-vasae/17"], temperature=0):
            ...

`AsyncLexiscope` has the same methods to be awaited, and asynchronous iterators. Filters, and the fields of a
reading or a steer, are given by name; the server says which exist.
"""

from lexiscope.client.async_client import AsyncLexiscope
from lexiscope.client.errors import Busy, InvalidRequest, KeyNeeded, NotFound, RequestFailed, Unreachable
from lexiscope.client.notebook import Feature, Sweep
from lexiscope.client.rows import AsyncRows, Export, Rows
from lexiscope.client.sync_client import Lexiscope

__all__ = [
    "AsyncLexiscope",
    "AsyncRows",
    "Busy",
    "Export",
    "Feature",
    "InvalidRequest",
    "KeyNeeded",
    "Lexiscope",
    "NotFound",
    "RequestFailed",
    "Rows",
    "Sweep",
    "Unreachable",
]
