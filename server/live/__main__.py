"""The model worker as a process: `python -m server.live --socket PATH`, or `--port N`. `lexiscope worker` is
the same.

`spawn_worker` also passes `--leash`: the process ends when its standard input closes, even if its parent was
killed.
"""

import argparse
import math
import os
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn

from lexiscope.settings import Settings, SettingsError
from server import logs
from server.connections import Protocol, limit_connections


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m server.live", description="The model worker: reads and steers language models."
    )
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--socket", type=Path, help="unix domain socket to listen on")
    where.add_argument("--port", type=int, help="TCP port to listen on")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on, with --port")
    parser.add_argument("--leash", action="store_true", help="end when standard input closes")
    given = parser.parse_args(arguments)
    if given.leash:
        threading.Thread(target=_end_with_parent, daemon=True).start()
    settings = Settings()
    logs.configure(settings)
    if given.socket is None and not settings.worker_token:
        raise SettingsError(
            "LEXISCOPE_WORKER_TOKEN: a worker on TCP needs a secret, the same for the server and the worker; "
            "make one with `openssl rand -hex 32`"
        )
    # before the library that reads it
    os.environ["HF_HUB_OFFLINE"] = "0" if settings.worker_hub else "1"
    from server.live.app import create_worker_app

    limit_connections(settings)
    options: dict[str, Any] = {
        "http": Protocol,
        "log_config": None,
        "access_log": False,
        "timeout_graceful_shutdown": math.ceil(settings.shutdown_seconds) + 2,
    }
    if given.socket is not None:
        with private_socket(given.socket) as own:
            uvicorn.run(create_worker_app(settings), fd=own.fileno(), **options)
    else:
        uvicorn.run(create_worker_app(settings, on_tcp=True), host=given.host, port=given.port, **options)


@contextmanager
def private_socket(path: Path) -> Iterator[socket.socket]:
    """A unix domain socket that only this user can open; uvicorn would let every user open its own."""
    if path.is_socket():
        path.unlink()  # left behind by a process that was killed
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as bound:
        umask = os.umask(0o077)
        try:
            bound.bind(str(path))
        finally:
            os.umask(umask)
        try:
            yield bound
        finally:
            path.unlink(missing_ok=True)


def _end_with_parent() -> None:
    while sys.stdin.buffer.read(1024):
        pass
    os._exit(0)


if __name__ == "__main__":
    main()
