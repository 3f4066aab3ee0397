"""What route handlers receive from the application: the open index and the client of the model worker."""

from typing import Annotated

from fastapi import Depends, Request

from server.live import WorkerClient, spawn_worker
from store import Store


def open_store(request: Request) -> Store:
    """The application's index."""
    store: Store = request.app.state.store
    return store


def open_worker(request: Request) -> WorkerClient:
    """The worker named in the settings, or the application's own. The latter is started here, before its
    first job.
    """
    state = request.app.state
    if state.settings.worker_url:
        return WorkerClient(state.settings.worker_url, token=state.settings.worker_token)
    if state.worker is None:
        state.worker = spawn_worker(state.settings, wait=False)
    return WorkerClient(state.worker)


OpenStore = Annotated[Store, Depends(open_store)]
Worker = Annotated[WorkerClient, Depends(open_worker)]
