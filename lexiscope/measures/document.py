"""The measures as Markdown tables, between the markers of docs/method.md.

python -m lexiscope.measures.document docs/method.md
"""

import sys
from collections.abc import Iterable
from pathlib import Path

from lexiscope.measures.dictionary import DERIVED, DICTIONARY
from lexiscope.measures.feature import FEATURE
from lexiscope.measures.measure import Measure
from lexiscope.measures.run import RUN
from lexiscope.measures.training import TRAINING

START, END = "<!-- measures -->", "<!-- /measures -->"
TABLES = (
    ("Of a feature, on the indexed text", FEATURE),
    ("Of a dictionary, on the indexed text", {**DICTIONARY, **DERIVED}),
    ("Of a run, on held-out text: `metrics.json`", RUN),
    ("Of a run while it trains: `train.jsonl`", TRAINING),
)
"""a measure that an earlier table defines is listed again without its definition"""


def tables() -> str:
    """A table a level: name, heading, unit and meaning of each measure."""
    parts, known = [], set[int]()
    for title, measures in TABLES:
        parts.append(f"### {title}\n\n{_table(measures.values(), known)}")
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
