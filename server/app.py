"""The application: settings and the index in, an ASGI app out. Its only state is the open index and the
worker.

Routes use `app.state`: `settings`, `store`, `templates` and `worker`.
"""

import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from fastapi import Depends, FastAPI

from lexiscope.settings import Settings
from server import (
    about,
    access,
    api_reference,
    compare,
    downloads,
    errors,
    exports,
    feature_lists,
    labels,
    lists,
    made,
    metrics,
    middleware,
    neuronpedia,
    openapi,
    operation,
    pages,
    progress,
    read,
    similar,
    static_files,
    steer,
    studies,
)
from server.answers import Answers
from server.closing import close_after_signals
from server.page_router import PageRouter
from server.request_checks import check_request
from server.responses import Templates
from store import ApiKeys, KeptLists, Labels, Store

ROUTERS = (
    api_reference.router,
    downloads.router,
    lists.router,
    progress.router,
    made.router,
    similar.router,
    labels.router,
    exports.router,
    read.router,
    steer.router,
    compare.router,
    feature_lists.router,
    *neuronpedia.ROUTERS,
    studies.router,
    about.router,
    pages.router,
)
"""in the order in which addresses are matched; the last has addresses that begin with a model's id"""


def create_app(
    settings: Settings | None = None,
    *,
    store: Store | None = None,
    routers: Sequence[PageRouter] = ROUTERS,
) -> FastAPI:
    """The web server. It also starts without an index; pages then respond with 503 and the command that makes
    one.
    """
    settings = settings or Settings()
    opened = store or Store(settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        close_after_signals(app.state.closing, settings.shutdown_seconds)
        yield
        app.state.closing.set()
        if app.state.worker is not None:
            app.state.worker.close()
        for kept in (opened, app.state.keys, app.state.labels, app.state.lists):
            kept.close()

    app = FastAPI(
        title="Lexiscope",
        summary="Features of sparse dictionaries, named by the model's own vocabulary, "
        "with the evidence for each name.",
        version="1",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        redirect_slashes=False,
        dependencies=[Depends(check_request)],
        responses=errors.error_responses(400, 422, 500),
    )
    app.state.settings = settings
    app.state.store = opened
    app.state.templates = Templates(navigation=[link for router in routers for link in router.navigation])
    app.state.answers = Answers(settings.answers_memory)
    app.state.keys = ApiKeys(settings)
    app.state.labels = Labels(settings)
    app.state.lists = KeptLists(settings)
    app.state.worker = None  # started by the first request that needs it
    app.state.worker_lock = threading.Lock()
    app.state.closing = threading.Event()  # set when the time of requests in progress is up
    errors.install(app)
    middleware.install(app, settings)
    access.install(app, settings)
    metrics.install(app)
    access.install_ids(app)
    static_files.install(app)
    app.include_router(operation.router)
    for router in routers:
        app.include_router(router)
    openapi.install(app)
    return app
