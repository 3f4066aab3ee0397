"""`lexiscope study NAME …` and `lexiscope studies`: every study as a command, made from its arguments."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer
from rich.console import Console
from rich.table import Table

from lexiscope.records import StudyFigure, StudyRecord
from lexiscope.settings import Settings
from lexiscope.study_files import write_record
from studies import STUDIES, Study

Name = Annotated[
    str | None,
    typer.Option("--name", help="what the record is called; the study and the model unless given"),
]
Out = Annotated[Path | None, typer.Option(help="the folder of the record, instead of LEXISCOPE_STUDIES")]


def app_of_studies(console: Console, typed: Sequence[str] = ()) -> typer.Typer:
    """A command for each study; `typed` is the command line that the record keeps."""
    app = typer.Typer(
        no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help="Run a study."
    )
    for study in STUDIES.values():
        app.command(name=study.name, help=study.question)(_command(study, console, typed))
    app.callback()(lambda: None)  # one study alone would not be a subcommand
    return app


def run_study(arguments: Sequence[str], console: Console) -> None:
    """Run `lexiscope study` with these arguments; raises SystemExit as Typer does."""
    app_of_studies(console, arguments)(list(arguments), prog_name="lexiscope study")


def list_studies(console: Console) -> None:
    """The studies there are, with their question and source."""
    table = Table("study", "question", "after")
    for study in STUDIES.values():
        table.add_row(study.name, study.question, study.source)
    console.print(table)


def _command(study: Study[Any], console: Console, typed: Sequence[str]) -> Callable[..., None]:
    """A function whose parameters are the study's arguments."""
    hints = get_type_hints(study.arguments)

    def command(name: str | None, out: Path | None, **given: Any) -> None:
        values = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
        record = study.run(study.arguments(**values), name=name, command=["lexiscope", "study", *typed])
        target = write_record(out or Settings().studies, record)
        show(record, console)
        console.print(f"kept as {target}; `lexiscope serve` shows it at /studies/{record.name}")

    parameters = [
        inspect.Parameter(
            each.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if each.default is MISSING else each.default,
            annotation=_annotation(each, hints[each.name]),
        )
        for each in fields(study.arguments)
    ]
    extra = [
        inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        for key, annotation in (("name", Name), ("out", Out))
    ]
    command.__signature__ = inspect.Signature([*parameters, *extra])  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in (*parameters, *extra)}
    return command


def _annotation(each: "Field[Any]", hint: Any) -> Any:
    """The field's type as Typer reads it: a tuple is an option that may be repeated."""
    if get_origin(hint) is tuple:
        hint = list[get_args(hint)[0]]  # type: ignore[misc]
    metadata = each.metadata
    if metadata.get("positional"):
        return Annotated[hint, typer.Argument(help=metadata["help"])]
    return Annotated[
        hint, typer.Option(f"--{each.name.replace('_', '-')}", help=metadata["help"], min=metadata["least"])
    ]


def show(record: StudyRecord, console: Console) -> None:
    """The answer and the figures, in the terminal."""
    console.print(record.answer, soft_wrap=True)
    table = Table("figure", "value", "95 % interval", "control")
    for each in record.figures:
        interval = "–"
        if each.low is not None and each.high is not None:
            interval = f"{_number(each, each.low)} to {_number(each, each.high)}"
        table.add_row(each.label, _number(each, each.value), interval, _number(each, each.control))
    console.print(table)


def _number(figure: StudyFigure, value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value * 100:.1f} %" if figure.unit == "share" else f"{value:.4g}"
