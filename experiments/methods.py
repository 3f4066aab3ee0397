"""`python -m experiments.methods OUT MODEL --text FILE… --layer L`: every training method at equal tokens, k
and width, alone and beside a token look-up. Figures are kept under results, the table is in docs/methods.md.

Every arm trains on the same activations (kept in OUT/cache), and is evaluated on the same held-out passages,
its features' names among the rest. An arm whose figures are there is not run again; `--only ARM` runs some;
`--tables` only writes the page.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from rich.console import Console

import trainer
from bench.report import machine
from experiments.figures import rounded
from experiments.page import DOCS, RESULTS, dagger, fill, outdated, table
from experiments.training import parse, plan_of, training_parser
from lexiscope.checkpoint import load_checkpoint
from lexiscope.files import portable_command
from lexiscope.language_model import LanguageModel, load_language_model

FOLDER, PAGE = RESULTS / "methods", DOCS / "methods.md"
FIGURES = (
    *("fve", "delta_ce", "dead_share", "l0", "lookup_share", "specific_live", "holds_live"),
    *("d_sae", "tokens", "ce_tokens"),
)
K, BATCH, RATE = 32, 1024, 1e-3
TOGETHER = 6
"""Arms that share a pass of the model."""


class Arm(NamedTuple):
    """One way to train."""

    recipe: str
    settings: Mapping[str, Any] = MappingProxyType({})
    label: str = ""
    """the recipe's name unless given"""
    lookup: bool = True
    """train it beside a token look-up too"""
    around: int = 0
    """the layers before and after that share the dictionary"""
    after: int = 0
    """the layers after that it reconstructs too"""


ARMS = {
    "plain": Arm("plain", label="`plain` (TopK)"),
    "batchtopk": Arm("batchtopk"),
    "matryoshka": Arm("matryoshka"),
    "jumprelu": Arm("jumprelu"),
    "gated": Arm("gated"),
    "abstopk": Arm("abstopk"),
    "hierarchical": Arm("hierarchical"),
    "msae": Arm("msae"),
    "e2e": Arm("e2e", {"learning_rate": 5e-4}),
    "e2e-downstream": Arm("e2e-downstream", {"learning_rate": 5e-4}),
    "off-support": Arm("plain", {"terms": "off_support:1e-3"}, "TopK, off-support ℓ1"),
    "ratio": Arm("plain", {"terms": "l1_l2:1e-2"}, "TopK, ℓ1/ℓ2"),
    "ortsae": Arm("ortsae"),
    "bagging": Arm("bagging"),
    "boosting": Arm("boosting"),
    "itda": Arm("itda", {"restarts": 0}),
    "metasae": Arm("metasae"),
    "standard": Arm("standard"),
    "p-annealing": Arm("p-annealing"),
    "featurechoice": Arm("featurechoice"),
    "g-sae": Arm("g-sae"),
    "mutualchoice": Arm("mutualchoice"),
    "top-afa": Arm("top-afa", {"k": 256}),
    "gba": Arm("gba"),
    "sa-gsae": Arm("sa-gsae"),
    "vsae": Arm("vsae"),
    "aen": Arm("aen"),
    "sparsemax": Arm("sparsemax"),
    "sasa": Arm("sasa"),
    "mfr": Arm("mfr"),
    "layer-group": Arm("layer-group", lookup=False, around=1),
    "crosscoder": Arm("crosscoder", lookup=False, after=1),
    "norm-match": Arm("plain", {"terms": "norm_match:1e-3"}, "TopK, AFA loss"),
}
BESIDE = "+lookup"
NAMES = [name for arm, one in ARMS.items() for name in (arm, arm + BESIDE)[: 1 + one.lookup]]


def run_of(name: str, given: argparse.Namespace) -> tuple[trainer.Config, list[int]]:
    """What an arm trains, and at which layers."""
    arm, _, beside = name.partition("+")
    config = trainer.recipe(ARMS[arm].recipe)
    batch = BATCH // given.length if config.batch_of == "passages" else BATCH
    around, after = ARMS[arm].around, ARMS[arm].around + ARMS[arm].after
    wanted: dict[str, Any] = {"k": K, "batch": batch, "learning_rate": RATE} | dict(ARMS[arm].settings)
    wanted |= {"name": folder_of(name)} | ({"lookup": "fixed"} if beside else {"lookup": "none"})
    config = replace(config, **{field: value for field, value in wanted.items() if hasattr(config, field)})
    return config, list(range(given.layer - around, given.layer + after + 1))


def folder_of(name: str) -> str:
    """The set's name of an arm's dictionaries."""
    return name.replace("+", "-")


def train(model: LanguageModel, names: list[str], given: argparse.Namespace) -> None:
    """Train some arms in one pass of the model, and evaluate them in another."""
    runs = [run_of(name, given) for name in names]
    plan = plan_of(given, runs, width=given.width, length=given.length)
    trainer.train(model, plan, console=Console())


def figures(folder: Path) -> dict[str, Any]:
    """What the table shows of a trained arm."""
    found = load_checkpoint(folder)
    details = found.details
    kept = {figure: found.metrics[figure] for figure in FIGURES}
    kept |= {"seen": details["tokens_seen"], "distinct": details["tokens_distinct"]}
    kept |= {"cpu_seconds": details["cpu_seconds"], "explained": details.get("explained", {})}
    return kept | {"machine": machine()}


def run(given: argparse.Namespace) -> None:
    """Run the arms that have no figures yet, some at a time."""
    model = load_language_model(given.model, model_id=given.model_id)
    path = FOLDER / f"{model.id}-{given.layer}.json"
    place = given.out / model.id
    todo = [name for name in given.only or NAMES if name not in arms_in(path)]
    for begin in range(0, len(todo), TOGETHER):
        names = todo[begin : begin + TOGETHER]
        folders = {name: place / f"{given.layer}-{folder_of(name)}" for name in names}
        missing = [name for name, folder in folders.items() if not (folder / "metrics.json").is_file()]
        if missing:
            train(model, missing, given)
        arms = arms_in(path) | {name: figures(folder) for name, folder in folders.items()}
        given_once = [part for part in sys.argv[1:] if part != "--only" and part not in NAMES]
        kept = {
            "command": portable_command(["python", "-m", "experiments.methods", *given_once]),
            "model": model.id,
            "layer": given.layer,
            "weights": model.fingerprint,
            "arms": {each: arms[each] for each in NAMES if each in arms},
        }
        FOLDER.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(rounded(kept), indent=1) + "\n")


def arms_in(path: Path) -> dict[str, Any]:
    """The figures kept so far, by arm."""
    return dict(json.loads(path.read_text())["arms"]) if path.is_file() else {}


def write_page(page: Path = PAGE) -> None:
    """The tables of docs/methods.md."""
    fill(page, {"methods": tables()})


def tables() -> list[str]:
    """A table a model and layer: a row an arm, alone and beside a look-up."""
    lines: list[str] = []
    for path in sorted(FOLDER.glob("*.json")):
        kept = json.loads(path.read_text())
        arms = kept["arms"]
        some, usual = next(iter(arms.values())), most_used(arms.values())
        lines += [
            f"**{kept['model']}, layer {kept['layer']}**: {some['d_sae']:,} features; {some['seen']:,} "
            f"tokens seen, {some['distinct']:,} distinct; {some['tokens']:,} held out, ΔCE on "
            f"{some['ce_tokens']:,}. `{kept['command']}`",
            "",
        ]
        header = ["method", "L0", "FVE", "ΔCE", "dead", "specific", "holds", "tokens/CPU s"]
        lines += table(header, [row_of(name, row, usual) for name, row in arms.items()])
        others = [one for one in dict.fromkeys(row["machine"] for row in arms.values()) if one != usual]
        threads = " and, of rows marked ‡, ".join(one.partition(", ")[2] for one in (usual, *others))
        lines += ["", f"Tokens a CPU second: one thread of {threads}.", *dagger(arms.values())]
        lines.append("")
    return lines[:-1]


def most_used(arms: Iterable[Mapping[str, Any]]) -> str:
    """The machine that most arms were trained on."""
    return Counter(row["machine"] for row in arms).most_common(1)[0][0]


def row_of(name: str, row: dict[str, Any], usual: str) -> list[str]:
    """An arm's row; its speed is marked where its machine is not the usual one."""
    arm, _, beside = name.partition("+")
    label = ARMS[arm].label or f"`{ARMS[arm].recipe}`"
    return [
        outdated(f"{label} + look-up" if beside else label, row),
        f"{row['l0']:.1f}",
        f"{row['fve']:.3f}",
        f"{row['delta_ce']:.4f}",
        f"{row['dead_share']:.1%}",
        f"{row['specific_live']:.1%}",
        f"{row['holds_live']:.1%}",
        f"{row['seen'] / row['cpu_seconds']:,.0f}" + " ‡" * (row["machine"] != usual),
    ]


def main() -> None:
    parser = training_parser(__doc__, tokens=250_000, seen=256_000, eval_tokens=20_000, ce_tokens=10_000)
    parser.add_argument("--layer", type=int, default=4)
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--only", action="append", choices=NAMES)
    parser.add_argument("--tables", action="store_true", help="train nothing; write the page again")
    given = parse(parser)
    if not given.tables:
        run(given)
    write_page()


if __name__ == "__main__":
    main()
