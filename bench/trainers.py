"""`make bench-train`: our trainer beside SAELens's, sparsify's and the paper's, on the same activations, from
one run on one machine.

Each trainer runs in a process of its own, peers in virtual environments of their own, which are made where
missing. Prints a table of figures, targets beside them; asserts none. `--gpu` does the same on CUDA, and adds
the Llama shape.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.machine import machine

ROOT = Path(__file__).parents[1]
PEERS = Path(__file__).parent / "peers"
SCRATCH = ROOT.parent / "scratch" / "venvs"
H200_BF16 = 989e12
"""FLOP/s, dense, from NVIDIA's data sheet."""


class Contender(NamedTuple):
    """One row of the table."""

    label: str
    module: str
    environment: str | None
    """name of a peer's environment; ours where None"""
    package: str | None
    options: tuple[str, ...]
    target: str


AT_WORK = "half the rows silent, so that AuxK is at work"
CONTENDERS = (
    Contender(
        "ours, plain",
        "lexiscope_topk",
        None,
        None,
        ("recipe=plain",),
        "≥ 1,000 tok/s (CPU), ≥ 1,000,000 (GPU)",
    ),
    Contender(f"ours, plain, {AT_WORK}", "lexiscope_topk", None, None, ("recipe=plain", "silent=0.5"), "–"),
    Contender("ours, vasae", "lexiscope_topk", None, None, ("recipe=vasae",), "anchors add ≤ 5 %"),
    Contender(
        "sparsify, Signum (its default)",
        "sparsify_topk",
        "sparsify",
        "eai-sparsify==1.3.3",
        (),
        "≥ 4× (CPU), ≥ 3× (GPU)",
    ),
    Contender(
        "sparsify, Adam",
        "sparsify_topk",
        "sparsify",
        "eai-sparsify==1.3.3",
        ("optimiser=adam",),
        "≥ 4× (CPU), ≥ 3× (GPU)",
    ),
    Contender("SAELens TopK", "saelens_topk", "saelens", "sae-lens==6.54.12", (), "≥ 4× (CPU), ≥ 10× (GPU)"),
    Contender(
        f"SAELens TopK, {AT_WORK}",
        "saelens_topk",
        "saelens",
        "sae-lens==6.54.12",
        ("silent=0.5",),
        "as above",
    ),
    Contender("paper-soft, anchor every step", "paper_soft", None, None, (), "≥ 100×"),
    Contender(
        "paper-soft, the anchor term as the authors' code has it",
        "paper_soft",
        None,
        None,
        ("anchor=autograd",),
        "≥ 100×",
    ),
)


def interpreter(contender: Contender, venvs: Path) -> str:
    """The Python of the contender's environment, made first where it is missing: torch before all, or CUDA
    packages come along.
    """
    if contender.environment is None:
        return sys.executable
    folder = venvs / contender.environment
    python, ready = folder / "bin" / "python", folder / "installed"
    if not python.exists():
        print(f"making {folder} for {contender.package}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    if not ready.exists():
        index = ["--index-url", os.environ["TORCH_INDEX"]] if os.environ.get("TORCH_INDEX") else []
        subprocess.run([str(python), "-m", "pip", "install", "-q", "torch==2.13.0", *index], check=True)
        subprocess.run(
            [str(python), "-m", "pip", "install", "-q", "torch==2.13.0", str(contender.package)], check=True
        )
        ready.touch()
    return str(python)


def measure(contender: Contender, shape: dict[str, int], asked: argparse.Namespace) -> dict[str, Any]:
    command = [interpreter(contender, asked.venvs), str(PEERS / "time_one.py"), contender.module]
    command += [f"--{name}={value}" for name, value in shape.items()]
    command += [f"--steps={asked.steps}", f"--threads={asked.threads}", f"--seconds={asked.seconds}"]
    command += [
        "--device",
        "cuda" if asked.gpu else "cpu",
        *(f"--option={option}" for option in contender.options),
    ]
    environment = os.environ | {
        "OMP_NUM_THREADS": str(asked.threads),
        "PYTHONPATH": str(ROOT),
        "TQDM_DISABLE": "1",
    }
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=asked.patience, check=False
        )
    except subprocess.TimeoutExpired:
        return {"failed": f"no result within {asked.patience:.0f} s"}
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or ["no message"])[-1][:200]}
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def where(asked: argparse.Namespace) -> str:
    if asked.gpu:
        import torch

        return torch.cuda.get_device_name()
    return machine()


def table(
    results: list[tuple[Contender, dict[str, Any]]], shape: dict[str, int], asked: argparse.Namespace
) -> list[str]:
    """Markdown: the table, then what our own step is made of and what memory it takes."""
    batch, own = shape["batch"], next((found for _, found in results if "wall" in found), None)
    columns = "tokens/s", "÷ ours", "tokens/CPU-s", "÷ ours", "s a step", "peak GB", "load", "target"
    lines = ["| trainer | " + " | ".join(columns) + " |", "|---|" + "--:|" * (len(columns) - 1) + "---|"]
    for contender, found in results:
        if own is None or "failed" in found:
            lines.append(
                f"| {contender.label} | {found.get('failed', 'no ratio')} |" + " |" * (len(columns) - 1)
            )
            continue
        lines.append(
            f"| {contender.label} | {batch / found['wall']:,.0f} | {found['wall'] / own['wall']:.1f}× | {batch / found['cpu']:,.0f} "
            f"| {found['cpu'] / own['cpu']:.1f}× | {found['wall']:.2f} | {found['peak'] / 1e9:.2f} "
            f"| {max(found['load']):.1f} | {contender.target} |"
        )
    for contender, found in results:
        if found.get("note"):
            lines += ["", f"{contender.label}: {found['note']}."]
    for contender, found in results:
        if "parts" in found:
            lines += ["", *own_step(contender, found, shape, asked)]
    return lines


def own_step(
    contender: Contender, found: dict[str, Any], shape: dict[str, int], asked: argparse.Namespace
) -> list[str]:
    """The parts of our step, its share of the machine's matrix product, its memory beside what it cannot do
    without.
    """
    parts = {name: seconds for name, seconds in found["parts"].items() if name != "whole"}
    needed = found["state"] + found["buffer"]
    flops = (
        2 * shape["d"] * shape["width"] * shape["batch"]
    )  # the encoder: 99.7 % of what sparse training must do
    shown = ", ".join(
        f"{name} {seconds:.2f} s" if not asked.gpu else f"{name} {1e3 * seconds:.2f} ms"
        for name, seconds in parts.items()
    )
    share = f"{flops / found['wall'] / found['gemm']:.0%} of the {found['gemm'] / 1e9:,.0f} GFLOP/s this process got from a matrix product"
    if asked.gpu:
        share += f", {flops / found['wall'] / H200_BF16:.0%} of an H200's 989 TFLOP/s"
    return [
        f"{contender.label}: a step is {shown}. Its arithmetic runs at {share}.",
        f"Memory {found['peak'] / 1e9:.2f} GB while training, {found['peak_starting'] / 1e9:.2f} GB at the start; weights, Adam's "
        f"moments and the buffer are {needed / 1e9:.2f} GB: {found['peak'] / needed:.2f}× (target ≤ 1.3×).",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--steps", type=int, default=5, help="steps timed after one to warm up, at most")
    parser.add_argument(
        "--seconds", type=float, default=45.0, help="no further step of a trainer begins after this long"
    )
    parser.add_argument("--patience", type=float, default=600.0, help="seconds until a trainer is given up")
    parser.add_argument("--batch", type=int, help="tokens a step; 2,048, on a GPU 8,192")
    parser.add_argument("--width", type=int, default=50_257)
    parser.add_argument("--d", type=int, default=768)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument(
        "--only", help="trainers whose label holds one of these, separated by commas; ours comes along"
    )
    parser.add_argument("--gpu", action="store_true", help="on CUDA, and the Llama shape too")
    parser.add_argument(
        "--venvs",
        type=Path,
        default=SCRATCH if SCRATCH.is_dir() else ROOT / ".venv" / "peers",
        help="peers' environments",
    )
    parser.add_argument("--write", type=Path, help="write the result to this Markdown file too")
    asked = parser.parse_args()
    batch = asked.batch or (8192 if asked.gpu else 2048)
    shapes = [{"d": asked.d, "width": asked.width, "k": asked.k, "batch": batch}]
    if asked.gpu:
        shapes.append({"d": 4096, "width": 128_256, "k": asked.k, "batch": batch})
    told = [
        f"--{name} {getattr(asked, name)}"
        for name in ("threads", "steps", "seconds", "patience")
        if getattr(asked, name) is not None
    ]
    told += [f"--only '{asked.only}'"] if asked.only else []
    command = "`" + " ".join(["python bench/trainers.py", *told, *(["--gpu"] if asked.gpu else [])]) + "`"
    lines = [
        "# Training speed beside peers",
        "",
        f"Written by {command} on {time.strftime('%Y-%m-%d %H:%M')}.",
        "",
    ]
    lines.append(
        f"Machine: {where(asked)}; {asked.threads} threads. Load is the highest one-minute average around a measurement;"
    )
    lines.append(
        "where it is above the number of threads the machine was shared, and tokens a CPU-second are the fairer figure."
    )
    for nth, shape in enumerate(shapes):
        wanted = [
            c for c in CONTENDERS if nth == 0 or (c.environment is None and c.module == "lexiscope_topk")
        ]
        if asked.only:
            wanted = [
                c
                for c in wanted
                if c is CONTENDERS[0] or any(part in c.label for part in asked.only.split(","))
            ]
        results = []
        for contender in wanted:
            print(f"{contender.label} …", file=sys.stderr, flush=True)
            results.append((contender, measure(contender, shape, asked)))
            print(json.dumps(results[-1][1]), file=sys.stderr, flush=True)
        title = f"d {shape['d']:,}, F {shape['width']:,}, k {shape['k']}, batch {shape['batch']:,}"
        lines += ["", f"## {title}", "", *table(results, shape, asked)]
    text = "\n".join(lines) + "\n"
    print(text)
    if asked.write:
        asked.write.write_text(text)


if __name__ == "__main__":
    main()
