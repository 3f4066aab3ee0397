"""The list of commands that made the records: each is a study with its arguments, and a refusal is no end."""

import io
from pathlib import Path

import pytest
import typer.main
from rich.console import Console

from cli.study_command import app_of_studies
from experiments.page import RESULTS
from experiments.studies import commands_of, run
from studies import STUDIES


def test_every_command_of_the_list_is_one_that_the_command_line_takes() -> None:
    group = typer.main.get_command(app_of_studies(Console()))
    found = commands_of(RESULTS / "studies" / "commands.txt")
    assert {words[0] for words in found} <= set(STUDIES)
    for name, *rest in found:
        command = group.commands[name]  # type: ignore[attr-defined]
        context = command.make_context(name, list(rest), resilient_parsing=True)
        assert context.params["dictionaries"] and context.params["text"]


def test_the_records_that_are_kept_are_in_the_list() -> None:
    listed = {words[0] for words in commands_of(RESULTS / "studies" / "commands.txt")}
    kept = {file.stem.split("-demo")[0].split("-smollm2")[0] for file in (RESULTS / "studies").glob("*.json")}
    assert {name.removesuffix("-tic-tac-toe") for name in kept} <= listed


def test_a_study_that_is_refused_is_said_so_and_the_next_one_runs(
    runs: list[Path], text_file: Path, tmp_path: Path
) -> None:
    file = tmp_path / "commands.txt"
    sizes = f"--text {text_file} --tokens 800 --length 48 --out {tmp_path / 'records'}"
    file.write_text(f"# two\nmatch {runs[2]} {sizes}\nabsorption {runs[2]} {runs[1]} {sizes}\n")
    told = io.StringIO()
    assert run(commands_of(file), Console(file=told)) == 2
    assert told.getvalue().count("refused:") == 2 and "s of CPU" in told.getvalue()


def test_a_comment_and_an_empty_line_are_no_commands(tmp_path: Path) -> None:
    (tmp_path / "c.txt").write_text("\n# nothing\nseeds 'a b' --text c  # and a word\n")
    assert commands_of(tmp_path / "c.txt") == [["seeds", "a b", "--text", "c"]]
    with pytest.raises(FileNotFoundError):
        commands_of(tmp_path / "none.txt")
