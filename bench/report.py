"""The report of a bench: what was run on which machine, and tables of figures. Printed as Markdown; with
`--write` also kept as results/bench/<name>.json and put into docs/benchmarks.md.

`python -m bench.report` writes docs/benchmarks.md again from results/bench/.
"""

import argparse
import json
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from experiments.page import DOCS, RESULTS, fill, table
from lexiscope.files import portable_command

FOLDER, PAGE = RESULTS / "bench", DOCS / "benchmarks.md"
CAPABILITIES = (
    ("amx_bf16", "AMX"),
    ("avx512_bf16", "AVX-512 BF16"),
    ("avx512f", "AVX-512"),
    ("avx2", "AVX2"),
)


def machine() -> str:
    """Cores and processor with its widest vector unit, as "2 cores, AMD EPYC (AVX2)"."""
    info = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").is_file() else ""
    lines = [line.partition(":") for line in info.splitlines()]
    names = [value.strip() for key, _, value in lines if key.strip() == "model name"]
    flags = next((set(value.split()) for key, _, value in lines if key.strip() == "flags"), set())
    widest = next((word for flag, word in CAPABILITIES if flag in flags), "no AVX2")
    return f"{os.cpu_count()} cores, {names[0] if names else platform.machine()} ({widest})"


def times(figure: float, other: float) -> str:
    """`figure` over `other`, as "1.27×"; "–" where `other` is 0."""
    return f"{figure / other:.2f}×" if other else "–"


@dataclass
class Table:
    title: str
    columns: Sequence[str]
    rows: list[list[str]] = field(default_factory=list)


@dataclass
class Report:
    """Tables and notes of one bench, under the command that made them."""

    bench: str
    """its module in bench/"""
    kept_as: str = ""
    """its name in results/bench and docs/benchmarks.md, where a bench has several reports; else the
    module's
    """
    command: str = ""
    machine: str = field(default_factory=machine)
    load: float = field(default_factory=lambda: round(os.getloadavg()[0], 1))
    """mean number of running processes of the minute before; above the cores, the machine was shared"""
    date: str = field(default_factory=lambda: datetime.now(UTC).date().isoformat())
    tables: list[Table] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.kept_as = self.kept_as or self.bench
        self.command = self.command or portable_command(
            ["python", "-m", f"bench.{self.bench}", *sys.argv[1:]]
        )

    def table(self, title: str, columns: Sequence[str]) -> Table:
        """A new table to add rows to."""
        self.tables.append(Table(title, columns))
        return self.tables[-1]

    def lines(self) -> list[str]:
        """Markdown."""
        lines = [f"`{self.command}`; {self.machine}, load {self.load}; {self.date}."]
        for each in self.tables:
            lines += ["", *([f"**{each.title}**", ""] if each.title else []), *table(each.columns, each.rows)]
        return lines + ([""] if self.notes else []) + [f"- {note}" for note in self.notes]

    def finish(self, *, write: bool = False) -> None:
        """Print it; with `write` keep it in results/ and docs/."""
        print("\n".join(self.lines()))
        if write:
            FOLDER.mkdir(parents=True, exist_ok=True)
            kept = json.dumps(asdict(self), ensure_ascii=False, indent=1)
            (FOLDER / f"{self.kept_as}.json").write_text(kept + "\n", encoding="utf-8")
            write_page(PAGE, FOLDER)


def write_option(parser: argparse.ArgumentParser) -> None:
    """Add `--write` to a bench's options."""
    parser.add_argument(
        "--write", action="store_true", help="keep the report in results/bench and docs/benchmarks.md"
    )


def load(file: Path) -> Report:
    """A report kept by `Report.finish`."""
    kept = json.loads(file.read_text(encoding="utf-8"))
    return Report(**kept | {"tables": [Table(**each) for each in kept["tables"]]})


def write_page(page: Path, folder: Path) -> None:
    """Put every report kept in `folder` into its place in the page."""
    fill(page, {file.stem: load(file).lines() for file in sorted(folder.glob("*.json"))})


if __name__ == "__main__":
    write_page(PAGE, FOLDER)
