"""`python -m experiments.recurrence RUN RUN... --text FILE...`: how often names by relation and word recur
when a dictionary is trained again with another seed. Adds its row to results/recurrence.json, in place of an
older one of the same dictionary, and writes the table of docs/results.md (`--page`: the table alone).

A name is a relation and its first word, of features whose verdict is `specific` or `partial`. Two questions
are put to each ordered pair of seeds: whether any live feature of the other has the name, and whether the
nearest one has (`lexiscope.metrics.name_stability`). Beside them: the same where the other seed's names are
permuted among its named features.
"""

import argparse
import json
from collections.abc import Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments.figures import keep_row, kept_rows
from experiments.page import DOCS, RESULTS, dictionary_name, fill, table
from experiments.relation_names import see
from lexiscope.checkpoint import Checkpoint, load_checkpoint
from lexiscope.evidence import relation_evidence
from lexiscope.language_model import LanguageModel, load_language_model
from lexiscope.metrics import NamedRun, name_stability
from lexiscope.text import passages
from lexiscope.vocabulary_tables import word_table

KEPT, PAGE = RESULTS / "recurrence.json", DOCS / "results.md"
RECURS_AT_LEAST = 0.5


def named(model: LanguageModel, run: Checkpoint, texts: list[np.ndarray], words: np.ndarray) -> NamedRun:
    """The run with a number for each relation and word; −1 for features whose name does not hold."""
    seen = see(model, run, texts, words)
    found = relation_evidence(seen.sample, seen.text, seen.live)
    names = found.names.relation.astype(np.int64) * len(words) + found.names.words[:, 0]
    names = np.where(found.holds & seen.live, names, -1)
    directions, firings = run.dictionary.directions, torch.from_numpy(seen.firings)
    return NamedRun(torch.from_numpy(names), directions, firings, torch.from_numpy(seen.live))


def permuted(run: NamedRun) -> NamedRun:
    """With its names dealt among the features that have one."""
    own = (run.names >= 0).nonzero().squeeze(1)
    dealt = own[torch.randperm(len(own), generator=torch.Generator().manual_seed(0))]
    names = run.names.clone()
    names[own] = run.names[dealt]
    return run._replace(names=names)


@torch.inference_mode()
def compare(runs: Sequence[NamedRun]) -> dict[str, float]:
    """Means over ordered pairs of seeds."""
    pairs = list(permutations(runs, 2))
    found = [name_stability(a, b) for a, b in pairs]
    dealt = [name_stability(a, permuted(b)) for a, b in pairs]
    return {
        "different": float(np.mean([each.tokens for each in found])),
        "any": float(np.mean([each.named for each in found])),
        "nearest": float(np.mean([each.recurs for each in found])),
        "nearest_permuted": float(np.mean([each.recurs for each in dealt])),
    }


def write_page(page: Path = PAGE, kept: Path = KEPT) -> None:
    header = ["dictionary", "seeds", "tokens", "names", f"any feature (≥ {RECURS_AT_LEAST})", "the nearest"]
    rows = []
    for row in json.loads(kept.read_text(encoding="utf-8"))["rows"]:
        shares = [f"{row[key]:.2f}" for key in ("any", "nearest", "nearest_permuted")]
        any_feature = f"**{shares[0]}**" if row["any"] >= RECURS_AT_LEAST else shares[0]
        counts = [
            dictionary_name(row["dictionary"]),
            str(row["seeds"]),
            f"{row['tokens']:,}",
            f"{row['different']:,.0f}",
        ]
        rows.append([*counts, any_feature, *shares[1:]])
    fill(page, {"recurrence": table([*header, "the nearest, names permuted"], rows)})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="seeds of one dictionary")
    parser.add_argument("--text", nargs="+", default=[])
    parser.add_argument("--tokens", type=int, default=100_000)
    parser.add_argument("--page", action="store_true", help="write the table from results/ and stop")
    given = parser.parse_args()
    if given.page:
        return write_page()
    if len(given.runs) < 2 or not given.text:
        parser.error("give two or more RUNs and --text")
    runs = [load_checkpoint(path) for path in given.runs]
    if len({run.model for run in runs}) > 1:
        parser.error("the RUNs are of different models")
    model = load_language_model(runs[0].model, model_id=runs[0].details.get("model_id"))
    texts = list(passages(model, given.text, tokens=given.tokens))
    found = [named(model, run, texts, word_table(model)) for run in runs]
    row: dict[str, Any] = {
        "dictionary": f"{model.id}/{given.runs[0].name}",
        "seeds": len(found),
        "tokens": sum(len(passage) - 1 for passage in texts),
        "names": "relation and word",
        **compare(found),
    }
    print(json.dumps(row), flush=True)
    keep_row(KEPT, kept_rows(KEPT, "experiments.recurrence"), row)
    return write_page()


if __name__ == "__main__":
    main()
