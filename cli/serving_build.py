"""A server that is there at once, beside the process that builds what it serves."""

import multiprocessing
import sys
from collections.abc import Callable
from functools import partial

from rich.console import Console
from rich.text import Text

from lexiscope.errors import LexiscopeError
from lexiscope.settings import Settings
from lexiscope.terminal import terminal

Builder = Callable[[Settings, Console], None]


def served_at(console: Console, address: str) -> None:
    console.print(f"Lexiscope is at {address} (Ctrl-C ends it)")


def serve_while_building(build: Builder, settings: Settings, console: Console) -> None:
    """Serve until interrupted, and run `build` in a process of its own, which ends with the server. What it
    keeps is continued at the next start.

    A build that fails prints why, and the server goes on with what is there.
    """
    from server.serve import serve

    # a fresh interpreter: a fork would share the server's threads and open index
    builder = multiprocessing.get_context("spawn").Process(target=_build, args=(build, settings))
    builder.start()
    try:
        serve(settings, listening=partial(served_at, console))
    finally:
        builder.terminate()
        builder.join()


def _build(build: Builder, settings: Settings) -> None:
    console = terminal()
    try:
        build(settings, console)
    except LexiscopeError as error:
        console.print(Text.assemble(("Error:", "bold red"), f" {error}"))
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
