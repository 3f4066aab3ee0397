"""Lists of features that people collect. A list is kept in its owner's browser; its address holds the whole
list, so that it can be shared.
"""

from typing import Annotated

from fastapi import Query, Request
from fastapi.responses import Response
from pydantic import Field

from lexiscope.records import FeatureRef, Record
from lexiscope.records.collection import ListEntry, SharedList
from lexiscope.records.requests import FeatureId
from server.dependencies import OpenStore
from server.page_router import PageRouter
from server.responses import PageContent, respond
from store import NotFound, Store

MOST = 500
"""features of a shared list; their address is still short enough for browsers"""
AT_ONCE = 64
"""features that the store looks up in one query"""

router = PageRouter()


class ListQuery(Record):
    """A shared list."""

    name: str = Field("", max_length=80)
    feature: list[FeatureId] = Field([], max_length=MOST, description="ids, in order")
    note: list[Annotated[str, Field(max_length=1100)]] = Field(
        [], max_length=MOST, description="a feature's id, a space, and what is noted on it"
    )


@router.page("/lists", SharedList, api="/lists", navigation="Lists", errors=(422, 503))
def lists(request: Request, store: OpenStore, query: Annotated[ListQuery, Query()]) -> Response:
    """The list in the address, with what the index says of its features, and the lists of this browser."""
    ids = list(dict.fromkeys(query.feature))
    notes = dict(note.split(" ", 1) for note in query.note if " " in note)
    found = _known(store, ids)
    record = SharedList(
        build=store.build_id(),
        name=query.name,
        entries=[ListEntry(id=one, feature=found.get(one), note=notes.get(one, "")) for one in ids],
    )
    kept = {
        "name": record.name or "A shared list",
        "features": [{"id": entry.id, "note": entry.note} for entry in record.entries],
    }
    return respond(request, PageContent(record, "lists.html", context={"kept": kept}))


def _known(store: Store, ids: list[str]) -> dict[str, FeatureRef]:
    """Those of the ids that the index has."""
    found: dict[str, FeatureRef] = {}
    for start in range(0, len(ids), AT_ONCE):
        part = ids[start : start + AT_ONCE]
        try:
            found |= zip(part, store.feature_refs(part), strict=True)
        except NotFound:
            if len(part) > 1:
                for one in part:
                    found |= _known(store, [one])
    return found
