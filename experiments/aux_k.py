"""`python -m experiments.aux_k OUT`: which AuxK settings leave fewer dead features and reconstruct better in
a short run, and what keeping ⟨encoder row, decoder row⟩ = 1 changes (`aligned`); into results/trainer/.

Every dictionary is of the bundled model: 4,096 features, 300 steps of 1,024 tokens (a feature fires as often
a step as with 8,192 features and 2,048 tokens), on activations that are read once (OUT/cache). `--part NAME`
trains one part alone, so that parts may run beside each other; figures that are there are kept, and
`--tables` only writes docs/results.md again.
"""

import argparse
import json
from dataclasses import replace
from itertools import combinations, product
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

import trainer
from bench.report import machine
from experiments.figures import mean, rounded
from experiments.page import DOCS, RESULTS, ROOT, fill, table
from lexiscope.checkpoint import load_checkpoint
from lexiscope.dictionary import Dictionary
from lexiscope.language_model import load_language_model

DEMO, FOLDER, PAGE = ROOT / "data" / "demo", RESULTS / "trainer", DOCS / "results.md"
STEPS, BATCH, WIDTH, TOKENS = 300, 1024, 4096, 337_000
HELD_OUT, SCORED = 10_000, 4_000
"""tokens that codes and patched cross-entropies are measured on"""
LAYERS, RECIPES = (2, 4), ("matched", "cone")
OFF: dict[str, Any] = {"aux_k": 0}
WEIGHTS, ROWS, AFTER = (1 / 32, 1.0), (64, 128), (15, 30)
SETTINGS = [OFF] + [
    {"aux_weight": WEIGHTS[i], "aux_k": ROWS[j], "aux_after": AFTER[k]}
    for i, j, k in sorted(product((0, 1), repeat=3), key=lambda each: sum(each) % 2)
]
"""the first five hold each value of each setting twice, in all pairs"""
USED: dict[str, Any] = {"aux_weight": 1 / 32, "aux_k": 64, "aux_after": 30}
ALIGNED = (False, True)
SEEDS = (0, 1)
RECURS = 0.7
"""Cosine from which on two mutually nearest decoder rows of two seeds are the same feature."""
FIGURES = ("fve", "delta_ce", "dead_share", "delta_ce_ci", "n_live")


def name_of(settings: dict[str, Any]) -> str:
    return "-".join(f"{field.removeprefix('aux_')}{value:g}" for field, value in settings.items())


def parts() -> dict[str, tuple[str, int, list[dict[str, Any]], tuple[int, ...]]]:
    """{part: (recipe, layer, settings, seeds)}"""
    found: dict[str, tuple[str, int, list[dict[str, Any]], tuple[int, ...]]] = {}
    for layer, recipe in product(LAYERS, RECIPES):
        found[f"{layer}-{recipe}"] = (recipe, layer, SETTINGS, SEEDS[:1])
    found["aligned"] = ("matched", LAYERS[-1], [{"aligned": aligned, **USED} for aligned in ALIGNED], SEEDS)
    return found


def train(part: str, out: Path, first: int) -> None:
    """Train and evaluate the `first` settings of a part, or resume; its figures go to results/trainer/."""
    recipe, layer, settings, seeds = parts()[part]
    settings = settings[:first]
    model = load_language_model(str(DEMO / "model"), model_id="demo")
    rows, dictionaries = [], {}
    for seed in seeds:
        configs = [
            replace(trainer.recipe(recipe), batch=BATCH, name=f"{recipe}-{name_of(each)}", **each)
            for each in settings
        ]
        plan = trainer.Plan(
            sources=[str(DEMO / "corpus.txt.xz")],
            runs=[(config, [layer]) for config in configs],
            out=out / f"seed{seed}",
            tokens=TOKENS,
            seen=STEPS * BATCH,
            eval_tokens=HELD_OUT,
            ce_tokens=SCORED,
            width=WIDTH,
            seed=seed,
            cache=out / "cache",
            resume=True,
        )
        for path, each in zip(trainer.train(model, plan, console=Console()), settings, strict=True):
            found = load_checkpoint(path)
            rows.append({"recipe": recipe, "layer": layer, "seed": seed, **each})
            rows[-1] |= {name: found.metrics[name] for name in FIGURES}
            dictionaries[name_of(each), seed] = found.dictionary
    kept: dict[str, Any] = {
        "machine": machine(),
        "weights": model.fingerprint,
        "steps": STEPS,
        "batch": BATCH,
        "width": WIDTH,
    }
    kept["rows"] = rows
    if len(seeds) > 1:
        kept["recur"] = {
            name_of(each): mean(
                recurring(dictionaries[name_of(each), a], dictionaries[name_of(each), b])
                for a, b in combinations(seeds, 2)
            )
            for each in settings
        }
    FOLDER.mkdir(parents=True, exist_ok=True)
    file_of(part).write_text(json.dumps(rounded(kept), indent=1) + "\n")


def recurring(one: Dictionary, other: Dictionary) -> float:
    """Share of decoder rows whose nearest row in the other dictionary has them as its nearest, at a cosine of
    RECURS or more.
    """
    a, b = one.directions, other.directions
    there = torch.cat([(part @ b.T).max(-1).indices for part in a.split(1024)])
    back = torch.cat([(part @ a.T).max(-1).indices for part in b.split(1024)])
    mutual = back[there] == torch.arange(len(a))
    return float((mutual & ((a * b[there]).sum(-1) >= RECURS)).double().mean())


def load() -> dict[str, dict[str, Any]]:
    return {part: json.loads(file_of(part).read_text()) for part in parts()}


def file_of(part: str) -> Path:
    return FOLDER / f"aux_k-{part}.json"


def sweep(found: dict[str, dict[str, Any]]) -> list[str]:
    """One row a setting; FVE, ΔCE and the dead share of each recipe, averaged over layers."""
    lines = []
    for settings in SETTINGS:
        cells = ["off"]
        if settings["aux_k"]:
            weight = "1/32" if settings["aux_weight"] < 1 else "1"
            cells = [f"weight {weight}, {settings['aux_k']} rows, silent for {settings['aux_after']} steps"]
        for recipe in RECIPES:
            rows = [
                row
                for layer in LAYERS
                for row in found[f"{layer}-{recipe}"]["rows"]
                if all(abs(row.get(field, -1) - value) < 1e-4 for field, value in settings.items())
            ]
            if len(rows) == len(LAYERS):
                cells += figures(rows)
        if len(cells) > 1:
            lines.append(cells)
    header = ["AuxK", *(f"{what}, {recipe}" for recipe in RECIPES for what in ("FVE", "ΔCE", "dead"))]
    return table(header, lines)


def figures(rows: list[dict[str, Any]]) -> list[str]:
    """Means of FVE, ΔCE and the dead share."""
    fve, delta, dead = (sum(row[name] for row in rows) / len(rows) for name in FIGURES[:3])
    return [f"{fve:.4f}", f"{delta:.4f}", f"{dead:.1%}"]


def alignment(found: dict[str, dict[str, Any]]) -> list[str]:
    """One row a parametrisation; means over seeds."""
    lines, part = [], found["aligned"]
    for aligned in ALIGNED:
        rows = [row for row in part["rows"] if row["aligned"] is aligned]
        recur = part["recur"][name_of({"aligned": aligned, **USED})]
        lines.append([f"`matched`, aligned={aligned}".lower(), *figures(rows), f"{recur:.1%}"])
    return table(["", "FVE", "ΔCE", "dead", "rows that recur in the other seed"], lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, nargs="?", help="where dictionaries and activations go")
    parser.add_argument("--part", action="append", choices=list(parts()), help="all unless given")
    parser.add_argument(
        "--first", type=int, default=len(SETTINGS), help="settings of a part; all unless given"
    )
    parser.add_argument("--tables", action="store_true", help="train nothing")
    given = parser.parse_args()
    if not given.tables:
        if given.out is None:
            parser.error("give OUT, a folder for dictionaries and activations")
        for part in given.part or parts():
            train(part, given.out, given.first)
    if all(file_of(part).is_file() for part in parts()):
        found = load()
        fill(PAGE, {"aux_k": sweep(found), "aligned": alignment(found)})


if __name__ == "__main__":
    main()
