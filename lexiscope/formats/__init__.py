"""Dictionaries in the layouts of the libraries that wrote them; one module a library, and `load` the one
door.

A format is a `Format` in `FORMATS`; another library adds its module and one entry there.
"""

from collections.abc import Iterator
from pathlib import Path

from lexiscope.errors import CheckpointError
from lexiscope.formats import saelens, sparsify, vasae
from lexiscope.formats.stored import Format, StoredDictionary

FORMATS = (saelens.FORMAT, sparsify.FORMAT, vasae.FORMAT)
PICKLES = (".pt", ".pth", ".pkl", ".bin")
DEPTH = 4
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
        raise CheckpointError(f"{path} holds {len(found)} dictionaries ({some}{more}); give one of them.")
    if not found:
        raise CheckpointError(_nothing(path))
    layout, place = found[0]
    return layout.read(place)._replace(place=place)


def dictionaries_in(path: Path, depth: int = DEPTH) -> Iterator[tuple[Format, Path]]:
    """Every dictionary that `path` is or holds, in the order of their names, with its format."""
    for layout in FORMATS:
        places = layout.at(path)
        if places:
            yield from ((layout, place) for place in places)
            return
    if depth and path.is_dir():
        for inside in sorted(path.iterdir()):
            if inside.is_dir() and not inside.name.startswith("."):
                yield from dictionaries_in(inside, depth - 1)


def _nothing(path: Path) -> str:
    known = "; ".join(f"{layout.files} ({layout.library})" for layout in FORMATS)
    if not path.exists():
        return f"There is no file or folder at {path}."
    if path.is_file():
        kind = (
            "a pickle of another kind, which is never executed"
            if path.suffix in PICKLES
            else "of another kind"
        )
        return f"{path} is no dictionary that can be read here: it is {kind}. These files are read: {known}."
    pickles = [inside.name for inside in path.iterdir() if inside.suffix in PICKLES]
    hint = f" It holds {pickles[0]}, a pickle of another kind, which is never executed." if pickles else ""
    return f"{path} holds no dictionary. These files are read: {known}.{hint}"
