"""The application: settings and the store go in, an ASGI app comes out. It holds no state but the open index.

Route modules use `app.state.settings`, `.store`, `.pages` (how a record becomes an answer) and `.worker`.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from lexiscope.settings import Settings
from server import api_reference, errors, pages, read, static_files, steer
from server.responses import Pages
from store import Store


def create_app(settings: Settings | None = None, *, store: Store | None = None) -> FastAPI:
    """The whole server. A missing index is no reason not to start: pages then answer 503 with the command
    that makes one.
    """
    settings = settings or Settings()
    opened = store or Store(settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        if app.state.worker is not None:
            app.state.worker.close()
        opened.close()

    app = FastAPI(
        title="Lexiscope",
        summary="Features of sparse dictionaries, named by the model's own vocabulary, with the evidence for each name.",
        version="1",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.settings = settings
    app.state.store = opened
    app.state.pages = Pages()
    app.state.worker = None  # the model worker, started by the first look at /steer
    errors.install(app)
    app.include_router(api_reference.router)
    static_files.install(app)
    app.include_router(steer.router)
    app.include_router(read.router)
    app.include_router(pages.router)
    return app
