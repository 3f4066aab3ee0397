"""What other pages show of the records of studies: in how many seeds a feature recurs, and what a model's
dictionaries leave out.
"""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from lexiscope.records import StudyRecord
from lexiscope.study_files import StudyFileError, names, read_record

READ = 64
"""records that are kept in memory"""


class OtherSeeds(NamedTuple):
    """A feature in dictionaries that were trained again with other seeds."""

    recurs: int
    """in how many of them it has a match"""
    seeds: int
    study: str
    """the record's name"""


@lru_cache(READ)
def _record(folder: Path, name: str, changed: int) -> StudyRecord | None:
    """None for a file that holds no record; `changed` is when the file was written."""
    try:
        return read_record(folder, name)
    except StudyFileError:
        return None


def _changed(folder: Path) -> Iterator[tuple[str, int]]:
    """Each record's name with the nanosecond at which its file was written."""
    for name in names(folder):
        try:
            yield name, (folder / f"{name}.json").stat().st_mtime_ns
        except OSError:  # removed in the meantime
            continue


def kept(folder: Path) -> list[StudyRecord]:
    """Every record of a folder, by name; files that hold none are left out."""
    found = [_record(folder, name, changed) for name, changed in _changed(folder)]
    return [record for record in found if record is not None]


def state(folder: Path) -> str:
    """Differs whenever a record was added, removed or replaced; empty without records."""
    found = list(_changed(folder))
    return f"{len(found)}-{max(changed for _, changed in found)}" if found else ""


def other_seeds(folder: Path, model: str, source: str, index: int, identity: str) -> list[OtherSeeds]:
    """Of each record of the study `seeds` whose first dictionary is this one, with these weights, where the
    feature was live.
    """
    found = []
    for record in kept(folder):
        each = record.recurrence
        if each is None or (each.dictionary, each.identity) != (f"{model}/{source}", identity):
            continue
        times = next((n for n, features in enumerate(each.recur_in) if index in features), None)
        if times is not None:
            found.append(OtherSeeds(times, len(each.recur_in) - 1, record.name))
    return found


def dark_matter(folder: Path, model: str) -> list[StudyRecord]:
    """The records of what a model's dictionaries leave out."""
    return [record for record in kept(folder) if record.study == "dark-matter" and record.model == model]
