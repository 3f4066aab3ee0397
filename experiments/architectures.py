"""`python -m experiments.architectures OUT`: each architecture beside SAELens's of the same name, on the same
activations of the bundled model: held-out FVE at equal tokens, learning rate, width and number of active
features, dead features, and tokens a CPU second; into results/trainer/architectures.json and docs/results.md.

Each trains in a process and an environment of its own (experiments.peer_quality, bench.peer_environments).
`--only NAME` trains one architecture and keeps the figures of the others; `--tables` only writes the page.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import trainer
from bench.peer_environments import VENVS, interpreter
from bench.report import machine, times
from experiments.page import DOCS, RESULTS, ROOT, fill, table
from lexiscope.language_model import load_language_model
from lexiscope.precision import precision
from lexiscope.text import fingerprint
from trainer.activations.cache import MANIFEST, Origin, cached, place
from trainer.plan import held_out_rule, training_passages

DEMO, PAGE = ROOT / "data" / "demo", DOCS / "results.md"
FILE = RESULTS / "trainer" / "architectures.json"
LAYER, WIDTH, K, BATCH, RATE = 4, 2048, 32, 512, 1e-3
TOKENS, SEEN, HELD_OUT = 125_000, 125_000, 20_000
ARCHITECTURES = ("topk", "batchtopk", "matryoshka", "jumprelu", "gated", "standard")
BY_K = ("topk", "batchtopk", "matryoshka")
"""SAELens misses, or has no, target of the others: ours gets the number of active features it ended with."""
SAELENS: dict[str, tuple[str, ...]] = {
    "topk": ("dead_after=30",),
    "batchtopk": ("dead_after=30", "topk_threshold_lr=0.05"),
    "matryoshka": ("dead_after=30", "topk_threshold_lr=0.05"),
    "jumprelu": (
        "jumprelu_sparsity_loss_mode=quadratic",
        "target_l0=32",
        "l0_coefficient=0.08",
        "l0_warm_up_steps=220",
        "jumprelu_init_threshold=0.3",
        "jumprelu_bandwidth=0.3",
        "jumprelu_ste_to_input=True",
    ),
    "gated": ("l1_coefficient=9",),
    "standard": ("l1_coefficient=14", "l1_warm_up_steps=60"),
}
"""Settings of SAELens that differ from its defaults, so that a run of 244 steps is fair to it: AuxK acts
in it, the running threshold forgets the start, and the sparsity penalties end at few active features. Of
seven settings tried for jumprelu, this one has the best FVE below 60 active features; a stronger or earlier
penalty ends nearer K with over 90 % of the features dead.
"""


def activations(cache: Path) -> Path:
    """The folder of the bundled model's activations, read into `cache` where they are not there yet."""
    model = load_language_model(str(DEMO / "model"), model_id="demo")
    sources = [str(DEMO / "corpus.txt.xz")]
    runs = [(trainer.recipe("plain"), [LAYER])]
    plan = trainer.Plan(sources, runs, cache, TOKENS + HELD_OUT, SEEN, HELD_OUT)
    origin = Origin(
        model.id,
        model.fingerprint,
        fingerprint(sources),
        plan.length,
        plan.tokens,
        held_out_rule(plan),
        precision=precision(model.device),
    )
    cached(model, list(training_passages(model, plan)), layers=[LAYER], origin=origin, folder=cache)
    return place(cache, origin)


def train(
    name: str, library: str, python: str, folder: Path, out: Path, options: list[str], k: int
) -> dict[str, Any]:
    """What experiments.peer_quality prints of one run."""
    command = [python, "-m", "experiments.peer_quality", f"{library}_trainer", str(out / f"{library}-{name}")]
    sizes = {"layer": LAYER, "d": 256, "width": WIDTH, "k": k, "batch": BATCH, "tokens": TOKENS, "seen": SEEN}
    command += [f"--{option}={value}" for option, value in sizes.items()]
    command += [f"--held-out={HELD_OUT}", f"--rate={RATE}", f"--cache={folder}"]
    command += [f"--option={option}" for option in options]
    changed = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "TQDM_DISABLE": "1"}
    done = subprocess.run(command, env=os.environ | changed, cwd=ROOT, stdout=subprocess.PIPE, check=True)
    found: dict[str, Any] = json.loads(done.stdout.decode().strip().splitlines()[-1])
    print(name, found, flush=True)
    return found


def rows(kept: dict[str, Any]) -> list[str]:
    """One row an architecture."""
    lines = []
    for name, pair in kept["runs"].items():
        own, other = pair["lexiscope"], pair["saelens"]
        speed = times(other["cpu_seconds"], own["cpu_seconds"])
        lines.append(
            [
                f"`{name}`",
                *(
                    cell
                    for run in (own, other)
                    for cell in (f"{run['fve']:.4f}", f"{run['l0']:.1f}", f"{1 - run['fired']:.1%}")
                ),
                speed,
            ]
        )
    header = [f"{what}, {who}" for who in ("Lexiscope", "SAELens") for what in ("FVE", "L0", "dead")]
    return table(["architecture", *header, "tokens a CPU-second ÷ SAELens's"], lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, nargs="?", help="where dictionaries and activations go")
    parser.add_argument("--only", action="append", choices=ARCHITECTURES, help="all unless given")
    parser.add_argument("--venvs", type=Path, default=VENVS, help="environments of the other libraries")
    parser.add_argument("--tables", action="store_true", help="train nothing")
    given = parser.parse_args()
    if not given.tables:
        if given.out is None:
            parser.error("give OUT, a folder for dictionaries and activations")
        folder = activations(given.out / "cache")
        for name in given.only or ARCHITECTURES:
            recipe = "plain" if name == "topk" else name
            same = [f"architecture={name}", "schedule=warmup-decay", *SAELENS[name]]
            python = interpreter("saelens", given.venvs)
            theirs = train(name, "saelens", python, folder, given.out, same, K)
            k = K if name in BY_K else round(theirs["l0"])
            own = train(name, "lexiscope", sys.executable, folder, given.out, [f"recipe={recipe}"], k)
            weights = json.loads((folder / MANIFEST).read_text())["weights"]
            keep(name, weights=weights, lexiscope=own | {"k": k}, saelens=theirs)
    fill(PAGE, {"architectures": rows(load())})


def load() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(FILE.read_text()) if FILE.is_file() else {"runs": {}}
    return found


def keep(name: str, *, weights: str, **runs: dict[str, Any]) -> None:
    """Put the figures of an architecture beside those of the others; `weights` are the language model's."""
    known = load()["runs"] | {name: {"weights": weights} | runs}
    kept: dict[str, Any] = {"machine": machine(), "layer": LAYER, "width": WIDTH, "k": K}
    kept |= {"batch": BATCH, "rate": RATE}
    kept["runs"] = {each: known[each] for each in ARCHITECTURES if each in known}
    FILE.parent.mkdir(parents=True, exist_ok=True)
    FILE.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
