"""The page of a build that runs beside the server."""

from fastapi import Request
from fastapi.responses import Response

from lexiscope.progress import read_progress
from lexiscope.records import BuildProgress
from server.dependencies import OpenStore
from server.live.problems import without_folders
from server.page_router import PageRouter
from server.responses import PageContent, respond
from store import Store, StoreError

router = PageRouter()


@router.page("/progress", BuildProgress, api="/progress", errors=(422,))
def progress(request: Request, store: OpenStore) -> Response:
    """How far the build is that runs beside this server, and what can be browsed already."""
    found = read_progress(request.app.state.settings.index)
    record = found.model_copy(
        update={"dictionaries": _dictionaries(store), "message": without_folders(found.message)}
    )
    return respond(request, PageContent(record, "progress.html"))


def _dictionaries(store: Store) -> list[str]:
    try:
        return [f"{layer.model}/{layer.source}" for model in store.home().models for layer in model.layers]
    except StoreError:
        return []
