"""`python -m experiments.studies COMMANDS [NAME…]`: studies of a file, one command a line, in one process.

A line is what follows `lexiscope study`; lines that begin with # are left out. With NAMEs, only the lines of
these studies are run. A study that is refused is said so, and the others go on. Models are loaded once: for
small runs that is most of the time. results/studies/commands.txt made the records beside it.
"""

import argparse
import shlex
import sys
import time
from pathlib import Path

from rich.console import Console

from cli.study_command import run_study
from lexiscope.errors import LexiscopeError
from lexiscope.terminal import terminal


def commands_of(file: Path) -> list[list[str]]:
    """The arguments of each line."""
    lines = (shlex.split(line, comments=True) for line in file.read_text(encoding="utf-8").splitlines())
    return [words for words in lines if words]


def run(commands: list[list[str]], console: Console) -> int:
    """Run all of them; how many were refused."""
    refused = 0
    for words in commands:
        begun = time.process_time()
        console.print(f"lexiscope study {shlex.join(words)}", soft_wrap=True)
        try:
            run_study(words, console)
        except LexiscopeError as error:
            console.print(f"refused: {error}", soft_wrap=True)
            refused += 1
        except SystemExit as end:
            refused += bool(end.code)
        console.print(f"{time.process_time() - begun:.0f} s of CPU")
    return refused


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.studies")
    parser.add_argument("commands", type=Path)
    parser.add_argument("names", nargs="*", help="studies to run; all unless given")
    given = parser.parse_args()
    found = [words for words in commands_of(given.commands) if not given.names or words[0] in given.names]
    sys.exit(1 if run(found, terminal()) else 0)


if __name__ == "__main__":
    main()
