"""The records of studies on disk: a folder of `<name>.json` files, each replaced in one step."""

import re
from pathlib import Path

from pydantic import ValidationError

from lexiscope.errors import LexiscopeError
from lexiscope.files import replace_file
from lexiscope.records import StudyRecord
from lexiscope.records.study import RECORD_NAME


class StudyFileError(LexiscopeError):
    """A record that cannot be read or written."""


class NoSuchStudy(StudyFileError):
    """There is no record of this name."""


def write_record(folder: Path, record: StudyRecord) -> Path:
    """Keep a record; one of the same name is replaced. Raises StudyFileError where the disk refuses."""
    target = folder / f"{record.name}.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with replace_file(target) as partial:
            partial.write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise StudyFileError(f"{target} could not be written: {error.strerror or error}.") from error
    return target


def read_record(folder: Path, name: str) -> StudyRecord:
    """Raises NoSuchStudy for a name without a file, StudyFileError for a file that holds no record."""
    file = folder / f"{name}.json"
    if not re.fullmatch(RECORD_NAME, name) or not file.is_file():
        known = ", ".join(names(folder)) or "none: `lexiscope study` makes one"
        raise NoSuchStudy(f"there is no record {name[:100]!r} of a study; there are {known}")
    try:
        return StudyRecord.model_validate_json(file.read_bytes())
    except (OSError, ValidationError) as error:
        reason = str(error).partition("\n")[0]
        raise StudyFileError(
            f"{file.name} is no record of a study ({reason}); run the study again"
        ) from error


def names(folder: Path) -> list[str]:
    """The names of all records, sorted."""
    return sorted(file.stem for file in folder.glob("*.json") if re.fullmatch(RECORD_NAME, file.stem))
