"""The dictionaries that a command is given: paths, or with --all everything that the paths hold."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

All = Annotated[
    bool, typer.Option("--all", help="take every dictionary that a given folder holds, however deep it lies")
]


def dictionary_paths(paths: Iterable[Path], every: bool) -> list[Path]:
    """`paths`, or the dictionaries inside them. Raises CheckpointError for one that holds none."""
    from lexiscope.formats import paths_of

    return [place for path in paths for place in paths_of(path)] if every else list(paths)
