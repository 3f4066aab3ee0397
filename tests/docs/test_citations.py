"""What documents and docstrings cite exists: files, headings, commands with their options, make targets,
settings.
"""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.console import Console

from cli.main import app
from cli.study_command import app_of_studies
from lexiscope.settings import Settings
from trainer.__main__ import app as trainer_app

ROOT = Path(__file__).parents[2]
PACKAGES = (
    "lexiscope",
    "trainer",
    "indexer",
    "store",
    "server",
    "studies",
    "cli",
    "frontend",
    "bench",
    "experiments",
)
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("results/*.md")])
CODE = sorted(
    [ROOT / "Makefile", ROOT / "pyproject.toml"]
    + [file for package in (*PACKAGES, "tests", "data/demo") for file in (ROOT / package).rglob("*.py")]
)
GENERATED = (
    "data/runs",
    "data/index",
    "data/lenses",
    "data/cache",
    "data/models",
    "data/studies",
    "data/tables",
)
PATH = re.compile(
    rf"(?<![\w/.<-])((?:{'|'.join((*PACKAGES, 'docs', 'results', 'data', 'tests'))})/[\w./-]*\w/?)(#[\w-]+)?"
)
LINK = re.compile(r"\]\(([^)#\s]*)(#[^)]*)?\)")
"""[text](path#anchor)"""


def name(file: Path) -> str:
    return str(file.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    """The fragments of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def missing(path: Path, fragment: str | None) -> str:
    """What is wrong with a citation of `path#fragment`; empty where nothing is."""
    if not path.exists():
        return f"there is no {path}"
    if fragment and fragment.removeprefix("#") not in anchors(path):
        return f"{path} has no heading {fragment}"
    return ""


def cited_paths(text: str) -> Iterator[tuple[str, str | None]]:
    for match in PATH.finditer(text):
        before, after = text[: match.start()], text[match.end() :]
        if after.startswith(("*", "<", "{", "…")) or before.endswith(("//", "*/")):
            continue
        if not match[1].startswith(GENERATED) and not re.search("/[A-Z]{2,}[_./]", match[1]):
            yield match[1], match[2]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    wrong = []
    for path, fragment in LINK.findall(text):
        if not path.startswith(("http://", "https://")):
            wrong.append(missing((page.parent / path).resolve() if path else page, fragment or None))
    assert not list(filter(None, wrong))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_path_that_a_page_names_exists(page: Path) -> None:
    text = LINK.sub("", page.read_text(encoding="utf-8"))
    assert not list(filter(None, (missing(ROOT / path, heading) for path, heading in cited_paths(text))))


def test_every_module_of_a_room_in_the_architecture_exists() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    inside = text.partition("## Inside the packages")[2].partition("\n## ")[0]
    packages = re.split(r"^\*\*`([\w/]+)/`\*\*", inside, flags=re.MULTILINE)[1:]
    assert packages[::2]
    missing_modules = []
    for package, modules in zip(packages[::2], packages[1::2], strict=True):
        for module in re.findall(r"`([a-z_]+)/?`", modules):
            path = ROOT / package / module
            if not path.is_dir() and not path.with_suffix(".py").exists():
                missing_modules.append(f"{package}/{module}")
    assert not missing_modules


def test_every_document_that_the_code_cites_exists() -> None:
    wrong = []
    for file in CODE:
        for path, heading in cited_paths(file.read_text(encoding="utf-8")):
            if path.startswith(("docs/", "results/")) and (problem := missing(ROOT / path, heading)):
                wrong.append(f"{name(file)}: {problem}")
    assert not wrong


def commands(text: str, program: str) -> Iterator[list[str]]:
    """The arguments of each call of a program in a page's code: fences, indented blocks and inline code; in a
    container too.
    """
    text = text.replace("\\\n", " ")
    blocks = re.findall(r"```\w*\n(.*?)```", text, re.DOTALL)
    rest = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    lines += re.findall(r"^    (.*)$", rest, re.MULTILINE) + re.findall(r"`([^`\n]+)`", rest)
    for line in lines:
        match = re.match(
            rf"(?:docker compose run .* train )?(?:\S*/)?{program} (.*)",
            re.split(r"\s#\s|; ", line.strip())[0],
        )
        if match:
            yield shlex.split(match[1].replace("[", " ").replace("]", " "))


def test_commands_are_found_whole_in_containers_and_over_lines() -> None:
    text = "    docker compose run --rm train lexiscope index FOLDER \\\n        --text FILE  # a comment\n"
    assert list(commands(text, "lexiscope")) == [["index", "FOLDER", "--text", "FILE"]]


def find_command(arguments: list[str]) -> tuple[Any, list[str]]:
    """The command of `lexiscope …` and what is left of the arguments; fails for an unknown one."""
    command: Any = typer.main.get_command(app)
    rest = list(arguments)
    while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
        assert rest[0] in command.commands, f"there is no command {shlex.join(arguments)}"
        command = command.commands[rest.pop(0)]
    if command.name == "train":  # hands its arguments to the trainer
        command = typer.main.get_command(trainer_app)
    if command.name == "study" and rest:  # has a command of its own for each study
        studies: Any = typer.main.get_command(app_of_studies(Console()))
        study = next(iter(studies.commands)) if rest[0].isupper() else rest[0]
        assert study in studies.commands, f"there is no study {study}"
        command = studies.commands[study]
    return command, rest


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_command_of_a_page_is_one_and_has_its_options(page: Path) -> None:
    for arguments in commands(page.read_text(encoding="utf-8"), "lexiscope"):
        if arguments[0] in ("COMMAND",):
            continue
        command, rest = find_command(arguments)
        known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        given = {argument.partition("=")[0] for argument in rest if re.match(r"--\w", argument)}
        assert given <= known, f"lexiscope {shlex.join(arguments)}: {given - known}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_module_that_a_page_runs_exists_and_has_its_options(page: Path) -> None:
    for arguments in commands(page.read_text(encoding="utf-8"), r"python3? -m"):
        module, *rest = arguments
        if module.isupper() or module.endswith(".NAME"):
            continue
        stem = ROOT / module.replace(".", "/")
        source = stem.with_suffix(".py") if stem.with_suffix(".py").exists() else stem / "__main__.py"
        assert source.exists(), f"there is no module {module}"
        shared = () if module.startswith("trainer") else ("bench/report.py", "experiments/training.py")
        written = "".join(file.read_text(encoding="utf-8") for file in (source, *map(ROOT.joinpath, shared)))
        for option in (argument.partition("=")[0] for argument in rest if re.match(r"--\w", argument)):
            named = option in written or option.removeprefix("--").replace("-", "_") in written
            assert named, f"{module} has no {option}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_make_target_of_a_page_exists(page: Path) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for arguments in commands(page.read_text(encoding="utf-8"), "make"):
        for target in (argument for argument in arguments if "=" not in argument):
            assert target in targets, f"there is no `make {target}`"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_setting_that_a_page_names_exists(page: Path) -> None:
    known = {f"LEXISCOPE_{field.upper()}" for field in Settings.model_fields} | {"LEXISCOPE_FOREIGN_CASES"}
    assert set(re.findall(r"\bLEXISCOPE_[A-Z_]+\b", page.read_text(encoding="utf-8"))) <= known
