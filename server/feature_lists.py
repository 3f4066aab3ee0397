"""Lists of features that people collect. A list is kept in its owner's browser, and its address holds all of
it, so that it can be shared; where there are API keys, the server keeps lists of each key too.
"""

from typing import Annotated

from fastapi import Path, Query, Request
from fastapi.responses import Response
from pydantic import Field
from starlette.exceptions import HTTPException

from lexiscope.records import FeatureRef, Record
from lexiscope.records.collection import (
    MOST_LISTED,
    KeptListOverview,
    KeptListPage,
    KeptListSummary,
    ListEntry,
    ListRequest,
    SharedList,
)
from lexiscope.records.requests import ListedId
from server.dependencies import KeyName, OpenLists, OpenStore
from server.errors import error_responses
from server.page_router import API, PageRouter
from server.responses import PageContent, is_json_route, json_response, respond
from store import MOST_ID, NotFound, Store

AT_ONCE = 64
"""features that the store looks up in one query"""
KEPT = f"{API}/lists/kept"
ListId = Annotated[int, Path(ge=1, le=MOST_ID, description="`id` of the list", examples=[1])]

router = PageRouter()


class ListQuery(Record):
    """A shared list."""

    name: str = Field("", max_length=80)
    feature: list[ListedId] = Field([], max_length=MOST_LISTED, description="ids, in order")
    note: list[Annotated[str, Field(max_length=1100)]] = Field(
        [], max_length=MOST_LISTED, description="a feature's id, a space, and what is noted on it"
    )


@router.get(KEPT, response_model=KeptListOverview, responses=error_responses(401, 429, 503))
def kept_lists(
    lists: OpenLists,
    owner: Annotated[str | None, Query(max_length=80, description="only the lists of this key")] = None,
) -> Response:
    """The lists that the server keeps, the last changed first. Every key reads all of them."""
    return json_response(KeptListOverview(lists=lists.every(owner=owner)))


@router.put(
    KEPT,
    response_model=KeptListSummary,
    responses=error_responses(400, 401, 403, 409, 413, 415, 429, 503),
)
def keep(lists: OpenLists, key: KeyName, body: ListRequest) -> Response:
    """Keep a list under its name, as the key's own. 409 where the server has another version of it than the
    one that the request replaces.
    """
    return json_response(lists.put(body, owner=_owner(key)))


@router.delete(
    f"{KEPT}/{{list_id:number}}", status_code=204, responses=error_responses(401, 403, 404, 429, 503)
)
def remove(lists: OpenLists, key: KeyName, list_id: ListId) -> None:
    """Remove one of the key's own lists."""
    lists.remove(list_id, owner=_owner(key))


@router.page(
    "/lists/{list_id:number}",
    KeptListPage,
    api="/lists/kept/{list_id:number}",
    errors=(401, 404, 422, 429, 503),
)
def kept_list(
    request: Request, store: OpenStore, lists: OpenLists, key: KeyName, list_id: ListId
) -> Response:
    """A list that the server keeps, with what the index says of its features."""
    found = lists.get(list_id)
    build, known = _known(store, list(dict.fromkeys(one.id for one in found.features)))
    entries = [ListEntry(id=one.id, feature=known.get(one.id), note=one.note) for one in found.features]
    record = KeptListPage(build=build, kept=found.summary, entries=entries)
    if is_json_route(request):
        return json_response(record)
    mine = key == found.summary.owner
    kept = _kept(found.summary.name, entries, found.summary.version if mine else 0)
    context = {"kept": kept, "key": key, "mine": mine}
    state = f"{key} {list_id}-{found.summary.version}"
    return respond(request, PageContent(record, "lists.html", context, state))


@router.page("/lists", SharedList, api="/lists", navigation="Lists", errors=(422, 503))
def lists(
    request: Request,
    store: OpenStore,
    lists: OpenLists,
    key: KeyName,
    query: Annotated[ListQuery, Query()],
) -> Response:
    """The list in the address, with what the index says of its features, and the lists of this browser."""
    ids = list(dict.fromkeys(query.feature))
    notes = dict(note.split(" ", 1) for note in query.note if " " in note)
    build, found = _known(store, ids)
    record = SharedList(
        build=build,
        name=query.name,
        entries=[ListEntry(id=one, feature=found.get(one), note=notes.get(one, "")) for one in ids],
    )
    if is_json_route(request):
        return respond(request, PageContent(record, "lists.html"))
    server = lists.every() if key else []
    context = {"kept": _kept(record.name or "A shared list", record.entries), "key": key, "server": server}
    state = " ".join([key, *(f"{one.id}-{one.version}" for one in server)])
    return respond(request, PageContent(record, "lists.html", context, state))


def _kept(name: str, entries: list[ListEntry], version: int = 0) -> dict[str, object]:
    """A list as browsers keep it; `version` is that of the key's own list on the server."""
    features = [{"id": entry.id, "note": entry.note} for entry in entries]
    return {"name": name, "version": version, "features": features}


def _owner(key: str) -> str:
    """Raises HTTPException 403 where there is no key."""
    if not key:
        raise HTTPException(
            403,
            "the server keeps lists of API keys, and has no key (lexiscope keys add); without one, your "
            "browser keeps your lists",
        )
    return key


def _known(store: Store, ids: list[str]) -> tuple[str, dict[str, FeatureRef]]:
    """(build, {id: reference} of those that it has)."""
    with store.held() as held:
        return held.build_id(), _known_of(held, ids)


def _known_of(store: Store, ids: list[str]) -> dict[str, FeatureRef]:
    found: dict[str, FeatureRef] = {}
    for start in range(0, len(ids), AT_ONCE):
        part = ids[start : start + AT_ONCE]
        try:
            found |= zip(part, store.feature_refs(part), strict=True)
        except NotFound:
            if len(part) > 1:
                for one in part:
                    found |= _known_of(store, [one])
    return found
