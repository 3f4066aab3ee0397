"""What Prometheus reads, and the log line of a request: one middleware measures both.

Several processes of one server add up their counts in a folder (PROMETHEUS_MULTIPROC_DIR, set by
`server.serve`).
"""

import logging
import os
import time

from fastapi import FastAPI
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.live import WorkerClient, WorkerRefused

CONTENT_TYPE = CONTENT_TYPE_LATEST
FOLDER = "PROMETHEUS_MULTIPROC_DIR"
REQUESTS = Counter("lexiscope_requests", "responses, by route", ["method", "route", "status"])
SECONDS = Histogram(
    "lexiscope_request_seconds",
    "time to the end of a response; of a stream, to its last event",
    ["route"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 120),
)
IN_PROGRESS = Gauge("lexiscope_requests_in_progress", "requests without a complete response",
                    multiprocess_mode="livesum")  # fmt: skip
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")

log = logging.getLogger("lexiscope.requests")


def install(app: FastAPI) -> None:
    app.add_middleware(Measured)


class Measured:
    """Counts and times every response, and logs it at level `info`: the route's path, without the query,
    which may hold a prompt.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status, begun = 499, time.perf_counter()  # the client left before there was a response

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        IN_PROGRESS.inc()
        try:
            await self.app(scope, receive, watched)
        finally:
            IN_PROGRESS.dec()
            seconds = time.perf_counter() - begun
            route = str(getattr(scope.get("route"), "path", "none"))
            method = scope["method"] if scope["method"] in METHODS else "other"
            REQUESTS.labels(method, route, status).inc()
            SECONDS.labels(route).observe(seconds)
            if log.isEnabledFor(logging.INFO):
                client, state = scope.get("client"), scope.get("state", {})
                fields = {
                    "method": method,
                    "path": scope["path"][:200],
                    "status": status,
                    "milliseconds": round(1000 * seconds, 1),
                    "client": client[0] if client else "",
                    "key": state.get("key_name", ""),
                    "request": state.get("request_id", ""),
                }
                log.info("%s %s %d", method, fields["path"], status, extra=fields)


async def exposition(worker: WorkerClient | None) -> bytes:
    """Prometheus's text: counts of all processes, and the state of the worker, where there is one."""
    registry = REGISTRY
    if FOLDER in os.environ:
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    own = CollectorRegistry()
    up = Gauge("lexiscope_worker_up", "whether the model worker responds", registry=own)
    if worker is not None:
        try:
            health = await worker.health()
        except WorkerRefused:
            up.set(0)
        else:
            up.set(1)
            for name, meaning, value in (
                ("running", "requests in progress", health.running),
                ("waiting", "requests in the queue", health.waiting),
                ("tokens_per_second", "generated tokens of all rows", health.tokens_per_second),
                ("memory_bytes", "weights in memory", health.memory_bytes),
            ):
                Gauge(f"lexiscope_worker_{name}", meaning, registry=own).set(value)
    return generate_latest(registry) + generate_latest(own)
