"""`make bench-train`: training speed and memory beside SAELens, sparsify and the paper's algorithm, on the
same synthetic activations.

Each trainer runs in a process of its own; other libraries have environments of their own
(bench.peer_environments). `--gpu` measures on CUDA and adds the Llama shape.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from bench.peer_environments import VENVS, interpreter
from bench.report import Report, times, write_option
from experiments.page import ROOT

H200_BF16 = 989e12
"""FLOP/s, dense, from NVIDIA's data sheet."""


class Contender(NamedTuple):
    """One row of the table."""

    label: str
    module: str
    """in bench.peers"""
    environment: str | None
    """of a peer; None for this project's own"""
    options: tuple[str, ...]
    target: str


AT_WORK = "AuxK at work (half the rows silent)"
CONTENDERS = (
    Contender(
        "Lexiscope, plain", "lexiscope_trainer", None, ("recipe=plain",), "≥ 1,000 tokens/s (GPU: 1,000,000)"
    ),
    Contender(f"Lexiscope, plain, {AT_WORK}", "lexiscope_trainer", None, ("recipe=plain", "silent=0.5"), ""),
    Contender(
        "Lexiscope, plain, by autograd", "lexiscope_trainer", None, ("recipe=plain", "gradients=autograd"), ""
    ),
    Contender("Lexiscope, vasae", "lexiscope_trainer", None, ("recipe=vasae",), "≤ 1.05×"),
    *(
        Contender(f"{who}, {name}", module, environment, (f"{option}={name}",), "")
        for name in ("batchtopk", "matryoshka", "jumprelu", "gated")
        for who, module, environment, option in (
            ("Lexiscope", "lexiscope_trainer", None, "recipe"),
            ("SAELens", "saelens_trainer", "saelens", "architecture"),
        )
    ),
    Contender("sparsify, Signum (its default)", "sparsify_topk", "sparsify", (), "≥ 4× (GPU: 3×)"),
    Contender("sparsify, Adam", "sparsify_topk", "sparsify", ("optimiser=adam",), "≥ 4× (GPU: 3×)"),
    Contender("SAELens TopK", "saelens_trainer", "saelens", (), "≥ 4× (GPU: 10×)"),
    Contender(f"SAELens TopK, {AT_WORK}", "saelens_trainer", "saelens", ("silent=0.5",), "≥ 4× (GPU: 10×)"),
    Contender("paper-soft, anchors every step", "paper_soft", None, (), "≥ 100×"),
    Contender("paper-soft, anchors as the authors' code", "paper_soft", None, ("anchor=autograd",), "≥ 100×"),
)
COLUMNS = (
    "trainer",
    "tokens/s",
    "time ÷ Lexiscope",
    "tokens/CPU-s",
    "CPU ÷ Lexiscope",
    "s/step",
    "peak GB",
    "target",
)


def measure(contender: Contender, shape: dict[str, int], given: argparse.Namespace) -> dict[str, Any]:
    """What bench.peers.time_one prints of one trainer, or why it failed."""
    python = interpreter(contender.environment, given.venvs) if contender.environment else sys.executable
    command = [python, "-m", "bench.peers.time_one", contender.module]
    command += [f"--{name}={value}" for name, value in shape.items()]
    command += [f"--{name}={getattr(given, name)}" for name in ("steps", "threads", "seconds")]
    command += ["--device", "cuda" if given.gpu else "cpu"]
    command += [f"--option={option}" for option in contender.options]
    changed = {"OMP_NUM_THREADS": str(given.threads), "PYTHONPATH": str(ROOT), "TQDM_DISABLE": "1"}
    try:
        done = subprocess.run(
            command,
            env=os.environ | changed,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=given.patience,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"failed": f"no result within {given.patience:.0f} s"}
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or ["no message"])[-1][:200]}
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def row(contender: Contender, found: dict[str, Any], own: dict[str, Any] | None, batch: int) -> list[str]:
    """One line of the table; ratios are to `own`, the first trainer of the table."""
    if "failed" in found or own is None:
        return [
            contender.label,
            found.get("failed", "no ratio"),
            *[""] * (len(COLUMNS) - 3),
            contender.target,
        ]
    return [
        contender.label,
        f"{batch / found['wall']:,.0f}",
        times(found["wall"], own["wall"]),
        f"{batch / found['cpu']:,.0f}",
        times(found["cpu"], own["cpu"]),
        f"{found['wall']:.2f}",
        f"{found['peak'] / 1e9:.2f}",
        contender.target,
    ]


def own_step(label: str, found: dict[str, Any], shape: dict[str, int], *, gpu: bool) -> str:
    """The parts of a step of our own, its share of a plain matrix product's rate, and its memory beside the
    least that it could take.
    """
    parts = ", ".join(f"{name} {1e3 * s:,.0f} ms" for name, s in found["parts"].items() if name != "whole")
    flops = 2 * shape["d"] * shape["width"] * shape["batch"] / found["wall"]
    share = f"{flops / found['gemm']:.0%} of the {found['gemm'] / 1e9:,.0f} GFLOP/s of a matrix product"
    if gpu:
        share += f" ({flops / H200_BF16:.0%} of an H200's 989 TFLOP/s)"
    needed = found["state"] + found["buffer"]
    beside = ", ".join(f"{name} {size / 1e9:.2f} GB" for name, size in found["beside"].items())
    memory = (
        f"{found['peak'] / 1e9:.2f} GB, {times(found['peak'], needed)} weights, moments and buffer "
        f"({needed / 1e9:.2f} GB; ≤ 1.6×), of which {beside}"
    )
    return f"{label}: {parts}; the encoder's arithmetic at {share}; peak memory {memory}."


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--steps", type=int, default=5, help="steps timed after one to warm up, at most")
    parser.add_argument(
        "--seconds", type=float, default=45.0, help="no step of a trainer begins after this long"
    )
    parser.add_argument("--patience", type=float, default=600.0, help="seconds until a trainer is given up")
    parser.add_argument("--batch", type=int, help="tokens a step; 2,048, on a GPU 8,192")
    parser.add_argument("--width", type=int, default=50_257)
    parser.add_argument("--d", type=int, default=768)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument(
        "--only", help="trainers whose label holds one of these, separated by commas, and the first"
    )
    parser.add_argument("--gpu", action="store_true", help="on CUDA, and the Llama shape too")
    parser.add_argument("--venvs", type=Path, default=VENVS, help="environments of the other libraries")
    write_option(parser)
    given = parser.parse_args()
    batch = given.batch or (8192 if given.gpu else 2048)
    shapes = [{"d": given.d, "width": given.width, "k": given.k, "batch": batch}]
    if given.gpu:
        shapes.append({"d": 4096, "width": 128_256, "k": given.k, "batch": batch})
    report = Report("trainers")
    for nth, shape in enumerate(shapes):
        title = f"d {shape['d']:,}, {shape['width']:,} features, k {shape['k']}, batch {batch:,}"
        table, own = report.table(f"{title}, {given.threads} threads", COLUMNS), None
        for contender in chosen(given.only, own_only=nth > 0):
            print(f"{contender.label} …", file=sys.stderr, flush=True)
            found = measure(contender, shape, given)
            own = own or (found if "wall" in found else None)
            table.rows.append(row(contender, found, own, batch))
            if "parts" in found:
                report.notes.append(own_step(contender.label, found, shape, gpu=given.gpu))
            if found.get("note"):
                report.notes.append(f"{contender.label}: {found['note']}.")
    report.finish(write=given.write)


def chosen(only: str | None, *, own_only: bool) -> list[Contender]:
    wanted = [c for c in CONTENDERS if not own_only or c.module == "lexiscope_trainer"]
    if only is None:
        return wanted
    return [c for c in wanted if c is CONTENDERS[0] or any(part in c.label for part in only.split(","))]


if __name__ == "__main__":
    main()
