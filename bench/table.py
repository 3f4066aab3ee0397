"""`python bench/table.py RUN...`: the held-out figures of runs (METHOD.md §5) as a Markdown table, read from their metrics.json."""

import json
import sys
from pathlib import Path

COLUMNS = {
    "tokens": "held-out tokens",
    "fve": "FVE",
    "delta_ce": "ΔCE",
    "kl": "KL",
    "dense_share": "dense",
    "dead_share": "dead",
    "aligned_live": "aligned live",
    "aligned_firing": "firing",
    "aligned_energy": "energy",
    "reads_precision": "reads",
    "reads_null": "(null)",
    "reads_family": "family",
    "reads_family_null": "(null)",
    "predicts_precision": "predicts",
    "predicts_null": "(null)",
    "supported_live": "supported live",
    "supported_firing": "firing",
    "coverage": "coverage",
}


def cell(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"


def main(folders: list[str]) -> None:
    print("| model | dictionary |", " | ".join(COLUMNS.values()), "|")
    print("|---|---|" + "---|" * len(COLUMNS))
    for folder in map(Path, folders):
        measured = json.loads((folder / "metrics.json").read_text())
        print(f"| {folder.parent.name} | {folder.name} |", " | ".join(cell(measured[key]) for key in COLUMNS), "|")


if __name__ == "__main__":
    main(sys.argv[1:])
