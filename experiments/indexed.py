"""`python -m experiments.indexed [INDEX]`: what an index says of its dictionaries as wholes: verdicts in both
directions, the words that they find and write, the bytes of a live feature; into
results/indexed/<model>.json. `make results` makes the tables of docs/results.md from there.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from experiments.figures import rounded
from experiments.page import RESULTS, bold, table
from lexiscope.evidence import VERDICTS, WRITE_VERDICTS
from lexiscope.files import portable_command
from lexiscope.settings import Settings
from store import DictionaryEntry, Store

FOLDER = RESULTS / "indexed"
FIGURES = (
    *("n_live", "tested_live", "holds_tested", "holds_firing", "finds", "finds_rows"),
    *("writes", "writes_over_features", "writes_logit", "writes_rows"),
    *("write_steering", "write_ablation", "verdicts", "write_verdicts"),
)
FINDS_AT_LEAST = 0.9
"""of words, with the rows of a look-up"""
WRITES_AT_LEAST = 2.0
"""times what the features that the logit lens chooses write"""
STEERED = WRITE_VERDICTS[:4]
"""of features that were steered"""


def keep(settings: Settings, folder: Path = FOLDER) -> list[Path]:
    """Write one file a model of the index; returns the files."""
    store = Store(settings)
    home = store.home()
    size = sum(file.stat().st_size for file in settings.index.glob(f"{home.build}.*"))
    live = sum(model.n_live for model in home.models)
    written = []
    for model in home.models:
        entries = [store.dictionary_entry(model.model, layer.source) for layer in model.layers]
        kept = {
            "command": portable_command(["python", "-m", "experiments.indexed", *sys.argv[1:]]),
            "bytes_a_live_feature": round(size / live) if live else None,
            "dictionaries": {entry.source: _figures(entry) for entry in entries},
        }
        target = folder / f"{model.model}.json"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(rounded(kept), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        written.append(target)
    store.close()
    return written


def _figures(entry: DictionaryEntry) -> dict[str, Any]:
    own = entry.summary
    figures = {name: getattr(own, name) for name in FIGURES}
    return {
        "recipe": own.recipe,
        "text": own.text,
        "tokens": own.index_tokens,
        **figures,
        "causal": entry.causal,
    }


def _kept(folder: Path) -> list[tuple[str, dict[str, Any]]]:
    """(model/source, its figures) of everything kept."""
    found = []
    for file in sorted(folder.glob("*.json")):
        own = json.loads(file.read_text(encoding="utf-8"))["dictionaries"]
        found += [(f"{file.stem}/{source}", figures) for source, figures in own.items()]
    return found


def share(value: float | None, target: float | None = None) -> str:
    """As 0.42, bold where it is at least `target`."""
    shown = "–" if value is None else f"{value:.2f}"
    return bold(shown, met=value is not None and target is not None and value >= target)


def found_and_written(folder: Path = FOLDER) -> list[str]:
    """The words that each dictionary finds and writes, its features and its rows apart."""
    rows = []
    for name, one in _kept(folder):
        logit = one["writes_logit"]
        times = one["writes"] / logit if logit else None
        rows.append(
            [
                name,
                share(one["finds"]),
                share(one["finds_rows"], FINDS_AT_LEAST),
                share(one["writes"]),
                share(logit),
                share(times, WRITES_AT_LEAST),
                share(one["writes_over_features"]),
                share(one["writes_rows"]),
                share(one["write_steering"]),
                share(one["write_ablation"]),
            ]
        )
    header = [
        *("dictionary", "finds", f"token rows find (≥ {FINDS_AT_LEAST})", "writes"),
        *("by the logit lens", f"writes ÷ that (≥ {WRITES_AT_LEAST:g})", "writes, embedding aside"),
        *("token rows write", "write lists, steering", "write lists, ablation"),
    ]
    return table(header, rows)


def verdict_counts(folder: Path = FOLDER) -> list[str]:
    """How many features have each verdict, in both directions."""
    rows = []
    for name, one in _kept(folder):
        counts = [one["verdicts"].get(verdict, 0) for verdict in VERDICTS]
        written = [one["write_verdicts"].get(verdict, 0) for verdict in STEERED]
        rows.append([name, *(f"{n:,}" for n in counts + written)])
    header = ["dictionary", *VERDICTS, "writes: both", "steering", "ablation", "neither"]
    return table(header, rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("index", nargs="?", type=Path, help="its folder; by default LEXISCOPE_INDEX")
    given = parser.parse_args()
    for path in keep(Settings(index=given.index) if given.index else Settings()):
        print(path)


if __name__ == "__main__":
    main()
