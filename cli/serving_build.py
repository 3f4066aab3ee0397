"""A server that is there at once, beside the process that builds what it serves."""

import multiprocessing
import sys
from collections.abc import Callable

from rich.console import Console

from lexiscope.errors import LexiscopeError
from lexiscope.settings import Settings

Builder = Callable[[Settings, Console], None]


def serve_while_building(build: Builder, settings: Settings, console: Console) -> None:
    """Serve until interrupted, and run `build` in a process of its own, which ends with the server. What it
    keeps is continued at the next start.

    A build that fails prints why, and the server goes on with what is there.
    """
    from server.serve import serve

    # a fresh interpreter: a fork would share the server's threads and open index
    builder = multiprocessing.get_context("spawn").Process(target=_build, args=(build, settings))
    builder.start()
    console.print(f"Lexiscope is at http://{settings.host}:{settings.port} (Ctrl-C ends it)")
    try:
        serve(settings)
    finally:
        builder.terminate()
        builder.join()


def _build(build: Builder, settings: Settings) -> None:
    console = Console()
    try:
        build(settings, console)
    except LexiscopeError as error:
        console.print(f"[bold red]Error:[/bold red] {error}", highlight=False)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
