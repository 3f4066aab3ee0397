"""What `lexiscope --help` and the help of its commands say."""

from collections.abc import Iterator
from typing import Any

import typer
from rich.console import Console

import trainer.__main__
from cli.main import app
from cli.study_command import app_of_studies


def commands(command: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every command below one, with its words."""
    for word, below in getattr(command, "commands", {}).items():
        yield from commands(below, f"{name} {word}".strip())
    if not hasattr(command, "commands"):
        yield name, command


EVERY = {
    **dict(commands(typer.main.get_command(app))),
    **dict(commands(typer.main.get_command(app_of_studies(Console())), "study")),
    "train": typer.main.get_command(trainer.__main__.app),
}


def test_set_is_a_setting_of_a_recipe_and_nothing_else() -> None:
    having = {name for name, command in EVERY.items() for one in command.params if "--set" in one.opts}
    assert having == {"train"}
    named = {name for name, command in EVERY.items() for one in command.params if "--set-name" in one.opts}
    assert named == {"train", "index", "name", "import neuronpedia"}


def test_the_demo_is_the_first_command_and_every_option_is_explained() -> None:
    assert next(iter(EVERY)) == "demo"
    silent = [
        f"{name} {one.opts[0]}"
        for name, command in EVERY.items()
        for one in command.params
        if one.opts[0].startswith("--") and one.opts[0] != "--help" and not one.help
    ]
    assert not silent


def test_a_text_to_name_on_is_required() -> None:
    [text] = [one for one in EVERY["name"].params if "--text" in one.opts]
    assert text.required
