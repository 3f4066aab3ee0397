"""What a study is: a question, its arguments, and a function from arguments to findings.

A study is one module with a `STUDY`, registered in `studies/__init__.py`. Its arguments are a frozen
dataclass; the command line (`cli/study_command.py`) makes an option of each field.
"""

from collections.abc import Callable, Sequence
from dataclasses import MISSING, asdict, dataclass, field
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from lexiscope.errors import LexiscopeError
from lexiscope.files import portable_command
from lexiscope.records import Recurrence, StudyChart, StudyFigure, StudyRecord, StudyTable


class StudyError(LexiscopeError):
    """Inputs that cannot answer a study's question."""


def argument(
    help: str, default: Any = MISSING, *, least: float | None = None, positional: bool = False
) -> Any:
    """A field of a study's arguments: what it is, its default (required without one), its least value."""
    metadata = {"help": help, "least": least, "positional": positional}
    return field(metadata=metadata) if default is MISSING else field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Dictionaries of one model, and the text that they are studied on."""

    dictionaries: tuple[Path, ...] = argument(
        "dictionaries of one model: folders or files of any library that is read", positional=True
    )
    text: tuple[str, ...] = argument("a file or a Hugging Face data set; may be given several times")
    tokens: int = argument("tokens of text to read, at most", 20_000, least=200)
    length: int = argument("tokens in a passage, BOS included", 128, least=16)
    field: str | None = argument("the field of each row of the text that is read", None)
    model: str | None = argument("the language model, instead of the one that the dictionaries record", None)
    model_id: str | None = argument("the model's id, instead of its folder's name", None)
    layer: int | None = argument("the layer of dictionaries that do not record theirs", None, least=0)
    seed: int = argument("of everything that is drawn", 0)


class Findings(NamedTuple):
    """What one run of a study found."""

    model: str
    """the language model's id"""
    answer: str
    figures: Sequence[StudyFigure]
    tables: Sequence[StudyTable] = ()
    chart: StudyChart | None = None
    recurrence: Recurrence | None = None


A = TypeVar("A", bound=Arguments)


@dataclass(frozen=True)
class Study(Generic[A]):
    """One question that can be asked of any model and dictionaries."""

    name: str
    question: str
    source: str
    """the publication that the method is from"""
    control: str
    """what the figures are compared with"""
    uncertainty: str
    """what the intervals are over"""
    arguments: type[A]
    find: Callable[[A], Findings]

    def run(self, arguments: A, *, name: str | None = None, command: Sequence[str] = ()) -> StudyRecord:
        """Raises LexiscopeError for inputs that cannot answer the question."""
        found = self.find(arguments)
        return StudyRecord(
            name=name or f"{self.name}-{found.model}".replace(".", "-").replace("_", "-"),
            study=self.name,
            model=found.model,
            question=self.question,
            source=self.source,
            answer=found.answer,
            control=self.control,
            uncertainty=self.uncertainty,
            figures=list(found.figures),
            tables=list(found.tables),
            chart=found.chart,
            recurrence=found.recurrence,
            arguments=_portable(asdict(arguments)),
            command=portable_command(command),
        )


def _portable(arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments without paths of this machine."""
    return {name: _value(value) for name, value in arguments.items()}


def _value(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_value(each) for each in value]
    if isinstance(value, Path) or (isinstance(value, str) and value.startswith("/")):
        return portable_command([str(value)]).strip("'")
    return value
