"""`lexiscope keys`: who may use the server, and how much."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.table import Table

from lexiscope.errors import LexiscopeError
from lexiscope.settings import Settings
from lexiscope.terminal import terminal
from store import ApiKeys

keys_commands = typer.Typer(
    no_args_is_help=True,
    help="API keys. As soon as there is one, the server answers only requests that have one.",
)
console = terminal(soft_wrap=True)

Name = Annotated[str, typer.Argument(help="whose key it is; labels are signed with it")]


@contextmanager
def _keys() -> Iterator[ApiKeys]:
    keys = ApiKeys(Settings())
    try:
        yield keys
    finally:
        keys.close()


@keys_commands.command()
def add(
    name: Name,
    per_minute: Annotated[int, typer.Option(min=0, help="requests a minute; 0: any number")] = 0,
    per_day: Annotated[int, typer.Option(min=0, help="requests a day (UTC); 0: any number")] = 0,
) -> None:
    """Make a key and print it. Only its hash is kept: it is not shown again."""
    with _keys() as keys:
        print(keys.add(name, per_minute=per_minute, per_day=per_day))


@keys_commands.command("list")
def list_keys() -> None:
    """Show the names of all keys, their limits, and their requests today."""
    with _keys() as keys:
        found = keys.list()
    if not found:
        console.print("There are no keys: the server answers every request.")
        return
    table = Table("name", "made", "a minute", "a day", "today", box=None)
    for key in found:
        limits = (f"{limit:,}" if limit else "any" for limit in (key.per_minute, key.per_day))
        table.add_row(key.name, key.created, *limits, f"{key.used_today:,}")
    console.print(table)


@keys_commands.command()
def remove(name: Name) -> None:
    """Remove a key; a running server refuses it within seconds."""
    with _keys() as keys:
        if not keys.remove(name):
            known = ", ".join(key.name for key in keys.list()) or "none"
            raise LexiscopeError(f"there is no key named {name!r}; there are: {known}")
