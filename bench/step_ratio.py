"""`python -m bench.step_ratio OTHER`: the time of a training step beside that of another checkout, such as
an earlier commit (`git worktree add OTHER COMMIT`).

The two train in processes of their own, on the same synthetic activations and one thread, and take their
steps in turn, so that both meet the machine in the same state. Given are medians over pairs of steps.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from bench.report import Report, write_option
from experiments.page import ROOT

STEPPER = """
import importlib, json, sys, time
import torch
from bench.peers.activations import synthetic
torch.set_num_threads(1)
torch.manual_seed(0)
recipe, d, width, k, batch = sys.argv[1], *map(int, sys.argv[2:])
for name in ("lexiscope_trainer", "lexiscope_topk"):  # as it is called, and was
    try:
        module = importlib.import_module(f"bench.peers.{name}")
        break
    except ModuleNotFoundError:
        pass
if name == "lexiscope_topk" and recipe == "cone":
    recipe = "vasae"
sample = synthetic(16 * batch, d, width)
trainer = module.Trainer(
    sample.x, tokens=sample.tokens, d_sae=width, k=k, batch=batch, steps=1000, recipe=recipe,
    embedding=sample.embedding,
)
order = torch.arange(len(sample.x)).split(batch)
for nth, _ in enumerate(sys.stdin):
    wall, cpu = time.perf_counter(), time.process_time()
    trainer.step(order[nth % len(order)])
    print(json.dumps([time.perf_counter() - wall, time.process_time() - cpu]), flush=True)
"""
RECIPES = ("plain", "cone")
SHAPES = ((256, 8192), (576, 49_152))
"""(d, features)"""
WARM_UP = 3


class Took(NamedTuple):
    wall: float
    cpu: float


class Stepper:
    """One checkout's trainer, in a process that takes a step when asked."""

    def __init__(self, tree: Path, recipe: str, *sizes: int) -> None:
        changed = {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", STEPPER, recipe, *map(str, sizes)],
            cwd=tree,
            env=os.environ | changed,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def step(self) -> Took:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return Took(*json.loads(self.process.stdout.readline()))

    def close(self) -> None:
        self.process.communicate()


def ratios(other: Path, recipe: str, sizes: tuple[int, ...], steps: int) -> tuple[list[Took], list[Took]]:
    """(this checkout's steps, the other's), each pair taken one after the other, in alternating order."""
    steppers = [Stepper(ROOT, recipe, *sizes), Stepper(other, recipe, *sizes)]
    took: tuple[list[Took], list[Took]] = ([], [])
    try:
        for nth in range(WARM_UP + steps):
            for which in (0, 1) if nth % 2 else (1, 0):
                measured = steppers[which].step()
                if nth >= WARM_UP:
                    took[which].append(measured)
    finally:
        for stepper in steppers:
            stepper.close()
    return took


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("other", type=Path, help="the other checkout")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--features", type=int, action="append", help="widths; 8,192 and 49,152 unless given")
    write_option(parser)
    given = parser.parse_args()
    commit = subprocess.run(
        ["git", "-C", str(given.other), "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    report = Report("step_ratio")
    columns = ("", "ms a step", "CPU ms", f"time ÷ {commit}", f"CPU time ÷ {commit}")
    table = report.table(f"k {given.k}, batch {given.batch:,}, one thread, {given.steps} pairs", columns)
    for d, width in SHAPES:
        if given.features and width not in given.features:
            continue
        for recipe in RECIPES:
            mine, others = ratios(
                given.other.resolve(), recipe, (d, width, given.k, given.batch), given.steps
            )
            pairs = list(zip(mine, others, strict=True))
            row = [f"{recipe}, d {d}, {width:,} features"]
            row += [f"{1e3 * statistics.median(t[of] for t in mine):,.0f}" for of in (0, 1)]
            row += [f"{statistics.median(a[of] / b[of] for a, b in pairs):.3f}" for of in (0, 1)]
            table.rows.append(row)
            print(row, file=sys.stderr, flush=True)
    report.finish(write=given.write)


if __name__ == "__main__":
    main()
