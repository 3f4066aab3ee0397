"""Markdown tables, and pages of docs/ in which a script owns the text between two comments."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
DOCS, RESULTS = ROOT / "docs", ROOT / "results"


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Lines of a Markdown table; the first column is aligned left, the others right."""
    lines = [f"| {' | '.join(header)} |", "|---|" + "--:|" * (len(header) - 1)]
    return lines + [f"| {' | '.join(map(str, row))} |" for row in rows]


def filled(text: str, block: str, lines: Iterable[str]) -> str:
    """The page with `lines` between `<!-- BLOCK -->` and `<!-- /BLOCK -->`. Raises ValueError where the page
    does not have these comments.
    """
    before, begin, rest = text.partition(f"<!-- {block} -->\n")
    _, end, after = rest.partition(f"<!-- /{block} -->")
    if not begin or not end:
        raise ValueError(
            f"The page has no block '{block}': write <!-- {block} --> and <!-- /{block} --> into it."
        )
    return "".join([before, begin, *(f"{line}\n" for line in lines), end, after])


def fill(page: Path, blocks: dict[str, list[str]]) -> None:
    """Write each block's lines into the page."""
    text = page.read_text(encoding="utf-8")
    for block, lines in blocks.items():
        text = filled(text, block, lines)
    page.write_text(text, encoding="utf-8")


SETS = {"fixed": "vasae", "none": "matched"}
"""What pages call the sets that `experiments.lookup` calls by their look-up."""


def dictionary_name(kept: str) -> str:
    """A dictionary's name, MODEL/LAYER-SET, with the set by its recipe."""
    before, dash, name = kept.rpartition("-")
    return f"{before}{dash}{SETS.get(name, name)}"


def outdated(text: str, record: Mapping[str, Any]) -> str:
    """A label of a table, with a dagger where its record says what it was `measured_before`. A record that is
    measured again does not say so.
    """
    return f"{text} †" if record.get("measured_before") else text


def dagger(records: Iterable[Mapping[str, Any]]) -> list[str]:
    """The lines under a table that say what the records with a dagger were measured before."""
    changes = dict.fromkeys(change for each in records if (change := each.get("measured_before")))
    return ["", f"† Measured before {'; or before '.join(changes)}."] if changes else []


def bold(text: str, *, met: bool) -> str:
    """A figure of a table, bold where it meets its target."""
    return f"**{text}**" if met else text
