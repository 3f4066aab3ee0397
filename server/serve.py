"""The web server as a process, or as several that share a port: `lexiscope serve`.

SIGTERM ends it within LEXISCOPE_SHUTDOWN_SECONDS and a few more, whatever its clients and its model worker
do.
"""

import logging
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from socket import socket

import uvicorn
from fastapi import FastAPI
from uvicorn.supervisors import Multiprocess

from lexiscope.errors import LexiscopeError
from lexiscope.files import temporary_folder
from lexiscope.settings import Settings
from server import logs
from server.app import create_app
from server.closing import CUT_SECONDS
from server.connections import Protocol, limit_connections
from server.live import WorkerProcess, spawn_worker
from server.live.client import HUNG_SECONDS
from server.metrics import FOLDER

CHECK_SECONDS = 1.0
PROCESS_SECONDS = 120
"""without a sign of life until a process is replaced: imports may take more than uvicorn's 5"""

log = logging.getLogger("lexiscope.server")


_applications: list[FastAPI] = []


def application() -> FastAPI:
    """The application of this process, made at the first call."""
    if not _applications:
        settings = Settings()
        logs.configure(settings)
        limit_connections(settings)
        _applications.append(create_app(settings))
    return _applications[0]


def serve(settings: Settings, *, listening: Callable[[str], None] = lambda address: None) -> None:
    """Serve until SIGTERM or SIGINT. Several processes share the model worker of LEXISCOPE_WORKER_URL, or one
    that is started here. `listening` gets the address, with the port that was bound. Raises SettingsError,
    StoreError before that.
    """
    for name in (
        "host",
        "port",
    ):  # the command line's, for `application` here or in a child
        os.environ[f"LEXISCOPE_{name.upper()}"] = str(getattr(settings, name))
    config = uvicorn.Config(
        "server.serve:application",
        factory=True,
        host=settings.host,
        port=settings.port,
        http=Protocol,
        lifespan="on",
        log_config=None,
        access_log=False,
        workers=settings.web_processes,
        timeout_worker_healthcheck=PROCESS_SECONDS,
        timeout_keep_alive=math.ceil(settings.request_seconds),
        timeout_graceful_shutdown=math.ceil(settings.shutdown_seconds) + CUT_SECONDS,
    )
    if settings.web_processes > 1:
        logs.configure(settings)
        with temporary_folder("lexiscope-metrics-") as counts, _shared_worker(settings):
            os.environ[FOLDER] = str(counts)
            Multiprocess(config, sockets=[_bound(config, listening)]).run()
        return
    application()  # its errors are the command's, in one line
    server = uvicorn.Server(config)
    server.run(sockets=[_bound(config, listening)])
    if not server.started:
        sys.exit(3)


def _bound(config: uvicorn.Config, listening: Callable[[str], None]) -> socket:
    bound = config.bind_socket()
    host = f"[{config.host}]" if ":" in config.host else config.host
    listening(f"http://{host}:{bound.getsockname()[1]}")
    return bound


@contextmanager
def _shared_worker(settings: Settings) -> Iterator[None]:
    """A model worker for all processes, where none is named; started again when it has died or hangs."""
    if settings.worker_url:
        yield
        return
    with spawn_worker(settings, wait=False) as worker:
        os.environ["LEXISCOPE_WORKER_URL"] = worker.url
        ended = threading.Event()

        threading.Thread(target=_keep_running, args=(worker, ended), daemon=True).start()
        try:
            yield
        finally:
            ended.set()


def _keep_running(worker: WorkerProcess, ended: threading.Event) -> None:
    process, answered = None, 0.0
    while not ended.wait(CHECK_SECONDS):
        with suppress(LexiscopeError):  # it is tried again
            worker.ensure()
            if worker.pid != process or worker.responds():
                process, answered = worker.pid, time.monotonic()
            elif process is not None and time.monotonic() - answered >= HUNG_SECONDS:
                log.error("the model worker (process %s) has not responded for %.0f s", process, HUNG_SECONDS)
                worker.replace(process)
