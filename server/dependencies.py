"""What route handlers receive from the application: the open index and the client of the model worker."""

from typing import Annotated

from fastapi import Depends, Query, Request
from fastapi.concurrency import run_in_threadpool

from server.live import WorkerClient, spawn_worker
from store import KeptLists, Labels, NotFound, Store


async def open_store(request: Request) -> Store:
    """The application's index."""
    store: Store = request.app.state.store
    return store


async def open_build(
    request: Request,
    build: Annotated[
        str,
        Query(
            max_length=100,
            description="the index build that the answer has to be from, as `build` of an earlier answer; it "
            "may then be kept for ever. 404 where another build is served",
        ),
    ] = "",
) -> Store:
    """The application's index, if it serves the build that the address names."""
    store = await open_store(request)
    if build and build != (served := await run_in_threadpool(store.build_id)):
        raise NotFound(f"build {build!r} is not served; the build that is served is {served}")
    return store


async def open_labels(request: Request) -> Labels:
    """People's labels of features."""
    labels: Labels = request.app.state.labels
    return labels


async def open_lists(request: Request) -> KeptLists:
    """Lists of features that the server keeps."""
    lists: KeptLists = request.app.state.lists
    return lists


async def key_name(request: Request) -> str:
    """The name of the key that a request came with; empty where keys are off."""
    return str(getattr(request.state, "key_name", ""))


def open_worker(request: Request) -> WorkerClient:
    """The worker named in the settings, or the application's own. The latter is started here, before its
    first job.
    """
    state = request.app.state
    if state.settings.worker_url:
        return WorkerClient(state.settings.worker_url, token=state.settings.worker_token)
    with state.worker_lock:  # requests that come at once share one worker
        if state.worker is None:
            state.worker = spawn_worker(state.settings, wait=False)
    return WorkerClient(state.worker)


OpenStore = Annotated[Store, Depends(open_store)]
OpenBuild = Annotated[Store, Depends(open_build)]
OpenLists = Annotated[KeptLists, Depends(open_lists)]
OpenLabels = Annotated[Labels, Depends(open_labels)]
KeyName = Annotated[str, Depends(key_name)]
Worker = Annotated[WorkerClient, Depends(open_worker)]
