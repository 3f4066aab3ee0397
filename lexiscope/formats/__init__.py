"""Dictionaries in the layouts of the libraries that wrote them; one module a library, and `load` for all.

A format is a `Format` in `FORMATS`; another library adds its module and one entry there.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from lexiscope.errors import CheckpointError
from lexiscope.formats import (
    dictionary_learning,
    gemma_scope,
    linear_layers,
    llamascopium,
    qwen_scope,
    saelens,
    sparsify,
    vasae,
)
from lexiscope.formats.stored import PICKLES, Format, StoredDictionary

FORMATS = (
    llamascopium.FORMAT,  # before SAELens, whose weights have the same name
    saelens.FORMAT,
    sparsify.FORMAT,
    vasae.FORMAT,
    gemma_scope.FORMAT,
    dictionary_learning.FORMAT,
    qwen_scope.FORMAT,
    linear_layers.FORMAT,
)
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
DEPTH = 6
"""Folders below the given one that are searched for dictionaries."""
LISTED = 8


def load(path: Path) -> StoredDictionary:
    """The one dictionary that `path` is or holds. Raises CheckpointError: none, several, or one that is
    damaged or follows a convention that is not read here.
    """
    found = list(dictionaries_in(path))
    if len(found) > 1:
        some = ", ".join(str(place.relative_to(path)) for _, place in found[:LISTED])
        more = f" and {len(found) - LISTED} more" if len(found) > LISTED else ""
        raise CheckpointError(
            f"{path} holds {len(found)} dictionaries ({some}{more}): give one of them, or all by --all."
        )
    if not found:
        raise CheckpointError(_nothing(path))
    layout, place = found[0]
    try:
        return layout.read(place)._replace(place=place)
    except (RuntimeError, IndexError, ValueError) as error:  # of torch: shapes that do not fit one another
        raise CheckpointError(f"{place}: its tensors do not fit one another ({error}).") from error


def paths_of(path: Path) -> list[Path]:
    """Every dictionary that `path` is or holds, each a path that `load` reads. Raises CheckpointError:
    none.
    """
    places = [place for _, place in dictionaries_in(path)]
    if not places:
        raise CheckpointError(_nothing(path))
    return places


def dictionaries_in(path: Path, depth: int = DEPTH) -> Iterator[tuple[Format, Path]]:
    """Every dictionary that `path` is or holds, in the order of their names, with its format."""
    for layout in FORMATS if path.exists() else ():
        places = layout.at(path)
        if places:
            yield from ((layout, place) for place in places)
            return
    if depth and path.is_dir():
        for inside in sorted(path.iterdir()):
            if inside.is_dir() and not inside.name.startswith("."):
                yield from dictionaries_in(inside, depth - 1)


def _nothing(path: Path) -> str:
    if not path.exists():
        hub = (
            f" If it is a repository of the hub, fetch it first: hf download {path}."
            if HUB_NAME.fullmatch(str(path))
            else ""
        )
        return f"There is no file or folder at {path}.{hub}"
    known = "; ".join(f"{layout.files} ({layout.library})" for layout in FORMATS)
    known = f"These are read: {known}. docs/name-any-sae.md shows how to write any other as one of them."
    if path.is_file():
        kind = (
            "a pickle of another kind, which is never executed" if path.suffix in PICKLES else "another file"
        )
        return f"{path} is no dictionary that can be read here, but {kind}. {known}"
    files = sorted(inside.name for inside in path.iterdir() if inside.is_file())
    pickles = [name for name in files if Path(name).suffix in PICKLES]
    inside = (
        f"It holds {', '.join(files[:LISTED])}{' …' if len(files) > LISTED else ''}"
        if files
        else "It is empty"
    )
    never = f"; {pickles[0]} is a pickle of another kind, which is never executed" if pickles else ""
    return f"{path} holds no dictionary that can be read here. {inside}{never}. {known}"
