"""`python -m experiments.lookup OUT MODEL --text FILE… --layer L…`: what a token look-up changes at equal
training, beside controls; into results/lookup/. `make results` makes the tables and the plot of
docs/results.md from there.

Every arm is trained on the same activations (kept in OUT/cache) and evaluated on the same passages. The
layers share one pass of the model. An arm whose checkpoints are in OUT is not trained again, so that OUT is
for one choice of sizes and one seed; `--only ARM` trains some.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import floor
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from rich.console import Console

import trainer
from bench.report import machine
from experiments.figures import rounded
from experiments.page import RESULTS, bold, table
from experiments.plots import DISTINCT, Panel, Point, Series, draw
from experiments.training import parse, plan_of, training_parser
from lexiscope import metrics
from lexiscope.checkpoint import load_checkpoint
from lexiscope.files import portable_command
from lexiscope.language_model import LanguageModel, load_language_model

FOLDER = RESULTS / "lookup"
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
    "tested_live",
    "holds_tested",
    "holds_firing",
)
AT_MOST = {"cone": 0.5, "none-equal": 0.6}
"""What ΔCE with a look-up should be at most, over that of another arm."""
DEAD_AT_MOST = 0.05
CURVES = ("none", "none-equal", "cone", "fixed")


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
    "paper-soft": Arm(
        "`paper-soft`, a row a token",
        "paper-soft",
        {"batch": 16, "epochs": 0, "patience": 0, "length": 0},
        0.0,
        1.0,
    ),
    "permuted": Arm("look-up of other tokens (control)", "vasae", {"lookup": "permuted"}),
    "gaussian": Arm("cones of Gaussian anchors (control)", "cone", {"anchors": "gaussian"}),
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


def plan_for(arm: str, model: LanguageModel, given: argparse.Namespace) -> trainer.Plan:
    one = ARMS[arm]
    config = replace(trainer.recipe(one.recipe), **one.settings)
    width = round(one.width * given.width + one.more * model.vocab_size)
    return plan_of(given, [(config, given.layer)], width=width, set_name=arm, seed=given.seed)


def run(given: argparse.Namespace) -> None:
    """Train the arms that have no checkpoints yet, and keep the figures of all that have, a file a layer."""
    model = load_language_model(given.model, model_id=given.model_id)
    for arm in given.only or ARMS:
        if not all(_done(arm, model, layer, given.out) for layer in given.layer):
            trainer.train(model, plan_for(arm, model, given), console=Console())
    for layer in given.layer:
        _keep(model, layer, given)


def _keep(model: LanguageModel, layer: int, given: argparse.Namespace) -> None:
    """Write the figures of every arm of a layer that is done."""
    folders = {arm: path for arm in ARMS if (path := _done(arm, model, layer, given.out))}
    found = {arm: load_checkpoint(path, anchors=False) for arm, path in folders.items()}
    rows = {
        arm: {name: checkpoint.metrics[name] for name in FIGURES}
        | {
            "seen": checkpoint.details["tokens_seen"],
            "distinct": checkpoint.details["tokens_distinct"],
            "seconds": checkpoint.details["seconds"],
            "loss": losses(folders[arm]),
        }
        for arm, checkpoint in found.items()
    }
    kept = {
        "command": command_of(list(rows)),
        "model": model.id,
        "layer": layer,
        "seed": given.seed,
        "weights": model.fingerprint,
        "machine": machine(),
        "arms": rows,
    }
    if "fixed" in found:
        passages = {arm: checkpoint.metrics["passage_delta_ce"] for arm, checkpoint in found.items()}
        kept["delta_ce_ratios"] = {
            arm: list(metrics.paired_ratio(passages["fixed"], other))
            for arm, other in passages.items()
            if arm != "fixed"
        }
    FOLDER.mkdir(parents=True, exist_ok=True)
    seed = f"-s{given.seed}" if given.seed else ""
    path = FOLDER / f"{model.id}-{layer}-{given.seen}{seed}.json"
    path.write_text(json.dumps(rounded(kept), indent=1) + "\n")


def _done(arm: str, model: LanguageModel, layer: int, out: Path) -> Path | None:
    """The folder of an arm that is trained and evaluated."""
    folder = out / model.id / f"{layer}-{arm}"
    return folder if (folder / "metrics.json").is_file() else None


def losses(folder: Path) -> dict[str, list[float]]:
    """{tokens, loss} along a run: means over its last ten steps, before each of them was learnt from."""
    lines = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    return {name: [line[name] for line in lines] for name in ("tokens", "loss")}


def command_of(arms: Sequence[str]) -> str:
    """The command that makes all of these arms, in the place of the last one, which made some."""
    words, rest = ["python", "-m", "experiments.lookup"], iter(sys.argv[1:])
    words += [word for word in rest if word != "--only" or next(rest) is None]
    return portable_command([*words, *(word for arm in arms for word in ("--only", arm))])


def kept() -> list[dict[str, Any]]:
    """What results/lookup/ holds, by model, layer and tokens seen."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in FOLDER.glob("*.json")]
    return sorted(
        found,
        key=lambda each: (each["model"], each["layer"], _sizes(each)["seen"], each.get("seed", 0)),
    )


def _title(each: dict[str, Any]) -> str:
    seed = f", seed {each['seed']}" if each.get("seed") else ""
    return f"{each['model']}, layer {each['layer']}{seed}"


def _sizes(each: dict[str, Any]) -> dict[str, Any]:
    """The row of any arm: all have the same sizes."""
    row: dict[str, Any] = next(iter(each["arms"].values()))
    return row


def tables() -> list[str]:
    """A table a model, layer and number of tokens."""
    lines: list[str] = []
    for each in kept():
        some = _sizes(each)
        lines += [
            f"**{_title(each)}**: {some['seen']:,} tokens seen, {some['distinct']:,} "
            f"distinct; {some['tokens']:,} held out. `{each['command']}`",
            "",
        ]
        header = ["", "features", "FVE", "ΔCE", "95 %", "dead", "look-up share"]
        best = front(each["arms"])
        rows = [_cells(arm, row, on_front=arm in best) for arm, row in each["arms"].items()]
        lines += table([*header, "names hold: tested", "firings", "on the front"], rows)
        lines.append("")
    return lines[:-1]


def front(arms: Mapping[str, Mapping[str, Any]]) -> set[str]:
    """The arms that no other arm beats: at ΔCE (lower) or the share of tested features whose names hold
    (higher), without being worse at the other. Arms whose names were not judged are not among them.
    """
    judged = {name: row for name, row in arms.items() if row.get("holds_tested") is not None}
    points = {name: (-row["delta_ce"], row["holds_tested"]) for name, row in judged.items()}
    return {
        name
        for name, own in points.items()
        if not any(other != own and other[0] >= own[0] and other[1] >= own[1] for other in points.values())
    }


def _cells(arm: str, row: dict[str, Any], *, on_front: bool) -> list[str]:
    return [
        ARMS[arm].label,
        f"{row['d_sae']:,}",
        f"{row['fve']:.3f}",
        f"{row['delta_ce']:.4f}",
        "–".join(f"{end:.4f}" for end in row["delta_ce_ci"]),
        f"{row['dead_share']:.1%}",
        f"{row['lookup_share']:.2f}",
        *("–" if row.get(name) is None else f"{row[name]:.2f}" for name in ("holds_tested", "holds_firing")),
        "yes" if on_front else "",
    ]


def reach() -> list[str]:
    """One row a model, layer and number of tokens: ΔCE with a look-up over that of the other arms, dead
    features and FVE.
    """
    rows = []
    for each in kept():
        arms, ratios = each["arms"], each.get("delta_ce_ratios", {})
        if "fixed" not in arms or "none" not in arms:
            continue
        fixed, matched = arms["fixed"], arms["none"]
        cells = [_title(each), f"{fixed['seen']:,}"]
        for arm in (*AT_MOST, "none"):
            cells.append(_ratio(fixed, arms.get(arm), ratios.get(arm), AT_MOST.get(arm)))
        dead = bold(f"{fixed['dead_share']:.1%}", met=fixed["dead_share"] <= DEAD_AT_MOST)
        rows.append([*cells, dead, f"{fixed['fve']:.3f}", f"{matched['fve']:.3f}"])
    limits = [f"÷ `cone` (≤ {AT_MOST['cone']})", f"÷ equal parameters (≤ {AT_MOST['none-equal']})"]
    header = ["model, layer", "tokens seen", *(f"ΔCE {limit}" for limit in limits), "ΔCE ÷ `matched`"]
    return table([*header, f"dead (≤ {DEAD_AT_MOST:.0%})", "FVE", "FVE, `matched`"], rows)


def _ratio(
    fixed: dict[str, Any], other: dict[str, Any] | None, interval: list[float] | None, limit: float | None
) -> str:
    """ΔCE over that of the other arm; bold where it is within the limit."""
    if other is None:
        return "–"
    value = fixed["delta_ce"] / other["delta_ce"]
    ends = f" ({interval[1]:.2f}–{interval[2]:.2f})" if interval else ""
    return bold(f"{value:.2f}", met=limit is not None and value <= limit) + ends


def curves() -> str:
    """1 − loss over the tokens of the first epoch, a panel a model and layer, where runs kept it."""
    panels = []
    for each in kept():
        arms = {arm: row for arm, row in each["arms"].items() if arm in CURVES and "loss" in row}
        if len(arms) < 2:
            continue
        distinct = _sizes(each)["distinct"]
        series = []
        for arm, colour in zip(CURVES, DISTINCT, strict=True):
            if arm in arms:
                points = zip(*(arms[arm]["loss"][name] for name in ("tokens", "loss")), strict=True)
                line = [Point(tokens / 1e6, 1 - loss) for tokens, loss in points if tokens <= distinct]
                series.append(Series(ARMS[arm].label.strip("*").replace("`", ""), colour, line))
        low = min(point.y for one in series for point in one.points)
        ticks = [distinct / 1e6 * part / 3 for part in range(4)]
        title, low = _title(each), floor(low * 20) / 20
        panels.append(Panel(title, "million tokens seen", "1 − loss", series, (low, 1), ticks))
    return draw(panels) if panels else ""


def main() -> None:
    parser = training_parser(__doc__, tokens=400_000, seen=409_600, eval_tokens=40_000, ce_tokens=16_000)
    parser.add_argument("--layer", type=int, action="append", required=True)
    parser.add_argument("--width", type=int, default=8192)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", choices=list(ARMS))
    run(parse(parser))


if __name__ == "__main__":
    main()
