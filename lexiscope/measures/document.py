"""The measures as Markdown tables, between the markers of docs/method.md.

python -m lexiscope.measures.document docs/method.md
"""

import sys
from collections.abc import Iterable
from pathlib import Path

from lexiscope.measures.levels import LEVELS
from lexiscope.measures.measure import Measure

START, END = "<!-- measures -->", "<!-- /measures -->"


def tables() -> str:
    """A table a level: name, heading, unit and meaning of each measure. One that an earlier table defines is
    listed again without its definition.
    """
    parts, known = [], set[int]()
    for title, measures, file in LEVELS:
        heading = f"### {title}: `{file}`" if file else f"### {title}"
        parts.append(f"{heading}\n\n{_table(measures.values(), known)}")
        known |= {id(measure) for measure in measures.values()}
    return "\n\n".join(parts)


def with_tables(page: str) -> str:
    """A page with the tables between its markers. Raises ValueError where it has no markers."""
    before, start, rest = page.partition(START)
    _, end, after = rest.partition(END)
    if not (start and end):
        raise ValueError(f"the page has no {START} … {END}")
    return f"{before}{start}\n{tables()}\n{end}{after}"


def _table(measures: Iterable[Measure], known: set[int]) -> str:
    lines = ["| name | heading | unit | meaning |", "|---|---|---|---|"]
    for measure in measures:
        beside = f"; by chance: `{measure.chance}`" if measure.chance else ""
        meaning = "as above" if id(measure) in known else f"{measure.comment}{beside}".replace("|", "\\|")
        lines.append(f"| `{measure.name}` | {measure.label} | {measure.unit} | {meaning} |")
    return "\n".join(lines)


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(with_tables(path.read_text(encoding="utf-8")), encoding="utf-8")
