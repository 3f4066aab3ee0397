"""`python -m experiments.lookup OUT MODEL --text FILE… --layer L`: what a token look-up changes at equal
training, beside controls; into results/lookup/ and docs/results.md.

Every arm is trained on the same activations (kept in OUT/cache) and evaluated on the same passages. An arm
whose checkpoint is in OUT is not trained again; `--only ARM` trains some; `--tables` only writes the page.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from rich.console import Console

import trainer
from bench.report import machine
from experiments.figures import rounded
from experiments.page import DOCS, RESULTS, fill, table
from lexiscope.checkpoint import load_checkpoint
from lexiscope.files import portable_command
from lexiscope.language_model import LanguageModel, load_language_model

FOLDER, PAGE = RESULTS / "lookup", DOCS / "results.md"
FIGURES = (
    "fve",
    "delta_ce",
    "delta_ce_ci",
    "dead_share",
    "lookup_share",
    "dense_share",
    "d_sae",
    "l0",
    "tokens",
)


class Arm(NamedTuple):
    """One way to train, and what it is called in the table."""

    label: str
    recipe: str
    settings: Mapping[str, Any] = MappingProxyType({})
    width: float = 1.0
    """features, in multiples of --width"""
    more: float = 0.0
    """further features, in multiples of the vocabulary"""


ARMS = {
    "plain": Arm("`plain`", "plain"),
    "none": Arm("`matched`: no look-up", "matched"),
    "none-equal": Arm("`matched`, with as many parameters as a look-up has", "matched", more=0.5),
    "cone": Arm("`cone`, a row a token", "cone", width=0.0, more=1.0),
    "permuted": Arm("look-up of other tokens (control)", "vasae", {"lookup": "permuted"}),
    "fixed": Arm("**`vasae`: look-up**", "vasae"),
    "trained": Arm("look-up, trained", "vasae", {"lookup": "trained"}),
    "following": Arm(
        "look-up, rows in cones (0.8) of the next token", "cone", {"lookup": "fixed", "anchors": "following"}
    ),
    "following-wide": Arm(
        "look-up, rows in cones (0.5) of the next token",
        "cone",
        {"lookup": "fixed", "anchors": "following", "cosine": 0.5},
    ),
    "half": Arm("look-up, half as many features", "vasae", width=0.5),
    "double": Arm("look-up, twice as many features", "vasae", width=2.0),
    "k16": Arm("look-up, k 16", "vasae", {"k": 16}),
    "k64": Arm("look-up, k 64", "vasae", {"k": 64}),
    "no-dense": Arm("look-up, no dense path", "vasae", {"dense_rank": 0}),
}


def plan_of(arm: str, model: LanguageModel, given: argparse.Namespace) -> trainer.Plan:
    one = ARMS[arm]
    config = replace(trainer.recipe(one.recipe), **one.settings)
    return trainer.Plan(
        sources=given.text,
        runs=[(config, [given.layer])],
        out=given.out,
        tokens=given.tokens,
        seen=given.seen,
        eval_tokens=given.eval_tokens,
        ce_tokens=given.ce_tokens,
        width=round(one.width * given.width + one.more * model.vocab_size),
        held_out=given.held_out or (),
        cache=given.out / "cache",
        set_name=arm,
        seed=given.seed,
        resume=True,
    )


def run(given: argparse.Namespace) -> None:
    """Train the arms that have no checkpoint yet, and keep the figures of all that have one."""
    model = load_language_model(given.model, model_id=given.model_id)
    for arm in given.only or ARMS:
        if not (given.out / model.id / f"{given.layer}-{arm}" / "metrics.json").is_file():
            trainer.train(model, plan_of(arm, model, given), console=Console())
    rows = {}
    for arm in ARMS:
        folder = given.out / model.id / f"{given.layer}-{arm}"
        if (folder / "metrics.json").is_file():
            found = load_checkpoint(folder, anchors=False)
            rows[arm] = {name: found.metrics[name] for name in FIGURES} | {
                "seen": found.details["tokens_seen"],
                "distinct": found.details["tokens_distinct"],
                "seconds": found.details["seconds"],
            }
    command = portable_command(["python", "-m", "experiments.lookup", *sys.argv[1:]])
    kept = {
        "command": command,
        "model": model.id,
        "layer": given.layer,
        "weights": model.fingerprint,
        "machine": machine(),
    }
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"{model.id}-{given.layer}.json"
    path.write_text(json.dumps(rounded(kept | {"arms": rows}), indent=1) + "\n")


def tables() -> list[str]:
    """A table a model and layer."""
    lines: list[str] = []
    for path in sorted(FOLDER.glob("*.json")):
        kept = json.loads(path.read_text())
        some = next(iter(kept["arms"].values()))
        lines += [
            f"**{kept['model']}, layer {kept['layer']}**: {some['seen']:,} tokens seen, {some['distinct']:,} "
            f"distinct; {some['tokens']:,} held out. `{kept['command']}`",
            "",
        ]
        lines += table(
            ["", "features", "FVE", "ΔCE", "95 %", "dead", "look-up share"],
            (
                [
                    ARMS[arm].label,
                    f"{row['d_sae']:,}",
                    f"{row['fve']:.3f}",
                    f"{row['delta_ce']:.4f}",
                    "–".join(f"{end:.4f}" for end in row["delta_ce_ci"]),
                    f"{row['dead_share']:.1%}",
                    f"{row['lookup_share']:.2f}",
                ]
                for arm, row in kept["arms"].items()
            ),
        )
        lines.append("")
    return lines[:-1]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, nargs="?", help="where dictionaries and activations go")
    parser.add_argument("model", nargs="?")
    parser.add_argument("--model-id")
    parser.add_argument("--text", action="append", default=[])
    parser.add_argument("--held-out", action="append")
    parser.add_argument("--layer", type=int, default=4)
    parser.add_argument("--width", type=int, default=8192)
    parser.add_argument("--tokens", type=int, default=400_000)
    parser.add_argument("--seen", type=int, default=409_600)
    parser.add_argument("--eval-tokens", type=int, default=40_000)
    parser.add_argument("--ce-tokens", type=int, default=16_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", choices=list(ARMS))
    parser.add_argument("--tables", action="store_true", help="train nothing")
    given = parser.parse_args()
    if not given.tables:
        if given.out is None or given.model is None or not given.text:
            parser.error("give OUT, MODEL and --text")
        run(given)
    fill(PAGE, {"lookup": tables()})


if __name__ == "__main__":
    main()
