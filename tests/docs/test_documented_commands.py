"""Commands in the documents exist, with the options that they are given there."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

import trainer.__main__
from cli.main import app

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = typer.main.get_command(app)
ELSEWHERE: dict[str, Any] = {"train": typer.main.get_command(trainer.__main__.app), "study": None}
"""commands that hand their arguments on; a study has arguments of its own"""


def commands(text: str) -> Iterator[str]:
    """What stands after `lexiscope ` in code: of a block's lines, with their continuations, and of spans."""
    joined = re.sub(r"\\\n\s*", " ", text)
    lines = [line for line in joined.splitlines() if re.match(r"    |\t", line)]
    for code in [*lines, *re.findall(r"`([^`\n]+)`", text)]:
        command = re.search(r"(?<!up)(?:^|\s)lexiscope ([a-z].*)", code.split(" #")[0])
        if command is not None and "docker run" not in code:
            yield command[1]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_commands_and_their_options_exist(document: Path) -> None:
    for command in commands(document.read_text(encoding="utf-8")):
        group: Any = COMMANDS
        words = command.split()
        name = words[0]
        while words and words[0] in getattr(group, "commands", ()):
            group = group.commands[words.pop(0)]
        assert group is not COMMANDS, f"lexiscope {command}"
        group = ELSEWHERE.get(name, group)
        if group is None:
            continue
        known = {option for parameter in group.params for option in parameter.opts}
        for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*", " ".join(words)):
            assert option in known, f"lexiscope {command}"
