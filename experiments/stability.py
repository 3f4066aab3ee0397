"""`python -m experiments.stability RUN...`: how often names recur from seed to seed, into
results/<model>/stability.json.

Runs of one recipe and layer (`cone`, `cone-s1`, …) are compared in every ordered pair and averaged, for the
two ways of naming that need no text: the nearest anchor and, where the checkpoint has it, the token of
highest lift.
"""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from itertools import permutations
from pathlib import Path

import torch
from safetensors.torch import load_file

from experiments.figures import STABILITY, rounded
from experiments.page import RESULTS
from lexiscope.checkpoint import load_checkpoint
from lexiscope.metrics import NamedRun, name_stability


def named(run: Path) -> dict[str, NamedRun]:
    """The run under each way of naming."""
    evidence = run / "evidence.safetensors"
    if not evidence.is_file():
        sys.exit(f"{run} has no evidence.safetensors; `lexiscope eval {run} --text … --write` makes it.")
    found, checkpoint = load_file(evidence), load_checkpoint(run)
    names = {"nearest": found["names"]}
    if checkpoint.fit is not None and checkpoint.fit.lift is not None:
        names["lift"] = checkpoint.fit.lift
    directions = checkpoint.dictionary.directions
    return {
        way: NamedRun(tokens, directions, found["firings"], found["live"]) for way, tokens in names.items()
    }


@torch.inference_mode()
def compare(runs: Sequence[Path]) -> dict[str, dict[str, float]]:
    """Means over ordered pairs of seeds, by way of naming."""
    seeds = [named(run) for run in runs]
    found = {}
    for way in seeds[0]:
        pairs = [name_stability(a[way], b[way]) for a, b in permutations(seeds, 2) if way in a and way in b]
        if pairs:
            means = {
                field: sum(getattr(pair, field) for pair in pairs) / len(pairs)
                for field in ("recurs", "named", "tokens")
            }
            found[way] = means | {"pairs": len(pairs)}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="evaluated, with `lexiscope eval --write`"
    )
    write(parser.parse_args().runs)


def write(runs: Sequence[Path], folder: Path = RESULTS) -> None:
    """Compare the seeds of every recipe and layer among the runs; the figures of others are kept."""
    groups: dict[tuple[str, str], list[Path]] = {}
    for run in runs:
        details = load_checkpoint(run, anchors=False).details
        base = re.sub(r"-s\d+$", "", details["set"])
        groups.setdefault((details["model_id"], f"{details['layer']}-{base}"), []).append(run)
    for (model, name), seeds in groups.items():
        if len(seeds) < 2:
            print(f"{model}/{name}: one seed only, nothing to compare")
            continue
        target = folder / model / STABILITY
        target.parent.mkdir(parents=True, exist_ok=True)
        known = json.loads(target.read_text()) if target.is_file() else {}
        known[name] = compare(seeds)
        target.write_text(json.dumps(rounded(known), indent=1) + "\n")
        print(model, name, known[name])


if __name__ == "__main__":
    main()
