"""Documents, figures and scripts speak of the project alone: no paths of a machine, no issue numbers, no
times of day.
"""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted(
    file
    for pattern in (
        "*.md",
        "docs/**/*.md",
        "docs/**/*.svg",
        "results/**/*",
        "bench/**/*.py",
        "experiments/**/*.py",
        "Makefile",
    )
    for file in ROOT.glob(pattern)
    if file.is_file()
)
FORBIDDEN = {
    "a path of a machine": re.compile(r"(?<![\w.])/(?:work|root|home|tmp|mnt|scratch|Users)\b/?[\w.-]*"),
    "an issue number": re.compile(r"\b[Ii]ssue \d+|(?<![\w&\"])#\d+\b"),
    "a time of day": re.compile(r"\b(?:[01]?\d|2[0-3]):[0-5]\d(?::[0-5]\d)?\b"),
    "a document outside the repository": re.compile(r"\b(?:METHOD|DESIGN|PEERS|PERFORMANCE|STYLE)\.md\b"),
}


CODE = [
    file
    for package in "lexiscope trainer indexer store server studies cli frontend data/demo tests".split()
    for file in sorted((ROOT / package).rglob("*.py"))
    if file != Path(__file__)
]


def test_code_cites_documents_of_the_repository_alone() -> None:
    outside = FORBIDDEN["a document outside the repository"]
    assert not [str(file) for file in CODE if outside.search(file.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_a_file_holds_nothing_of_where_and_when_it_was_written(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    found = {what: match[0] for what, pattern in FORBIDDEN.items() if (match := pattern.search(text))}
    assert not found
