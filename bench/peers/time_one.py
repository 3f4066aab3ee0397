"""Time one trainer on synthetic activations, in a process and an environment of its own; the last line
printed is JSON.

Called by bench.trainers. CPU time is measured beside wall time because it also holds on a shared machine.
"""

import argparse
import gc
import importlib
import json
import os
import statistics
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from bench.peers.activations import synthetic

N_ROWS = 65_536
"""Activations in the buffer."""


def memory(field: str) -> int:
    """Bytes of VmRSS or VmHWM of this process (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    return 0


def gemm_peak(device: str) -> float:
    """Best FLOP/s of a square matrix product: bf16 on CUDA, the faster of float32 and bf16 on a CPU."""
    if device == "cpu":
        return max(_gemm_peak(device, 2048, dtype) for dtype in (torch.float32, torch.bfloat16))
    return _gemm_peak(device, 8192, torch.bfloat16)


def _gemm_peak(device: str, n: int, dtype: torch.dtype) -> float:
    a, b, best = (
        torch.randn(n, n, device=device, dtype=dtype),
        torch.randn(n, n, device=device, dtype=dtype),
        0.0,
    )
    out = torch.empty_like(a)
    for _ in range(6):
        synchronise(device)
        begun = time.perf_counter()
        torch.mm(a, b, out=out)
        synchronise(device)
        best = max(best, 2 * n**3 / (time.perf_counter() - begun))
    return best


def import_lazily_loaded() -> None:
    """Optimisers and linear algebra load 100 MB of code on first use, in some environments earlier than in
    others: all have it now.
    """
    weight = torch.zeros(2, 2, requires_grad=True)
    weight.sum().backward()
    torch.optim.Adam([weight]).step()
    torch.linalg.eigh(torch.eye(4))


def synchronise(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


@contextmanager
def timed(parts: dict[str, list[tuple[Any, str]]], device: str) -> Any:
    """Wraps the functions that make up each part; yields {part: seconds}, filled as they are called, less the
    timed calls inside.
    """
    spent, restore, open_calls = dict.fromkeys(parts, 0.0), [], []

    def wrap(label: str, function: Any) -> Any:
        def timing(*given: Any, **named: Any) -> Any:
            open_calls.append(0.0)  # seconds of timed calls inside this one
            synchronise(device)
            begun = time.perf_counter()
            try:
                return function(*given, **named)
            finally:
                synchronise(device)
                whole = time.perf_counter() - begun
                spent[label] += whole - open_calls.pop()
                if open_calls:
                    open_calls[-1] += whole

        return timing

    for label, places in parts.items():
        for owner, name in places:
            if hasattr(owner, name):
                restore.append((owner, name, getattr(owner, name)))
                setattr(owner, name, wrap(label, getattr(owner, name)))
    try:
        yield spent
    finally:
        for owner, name, function in restore:
            setattr(owner, name, function)


def breakdown(trainer: Any, module: Any, batches: list[torch.Tensor], device: str) -> dict[str, float]:
    """Seconds a step of each part, of Adam and of the rest."""
    parts = {**module.PARTS, "Adam": [(trainer.optimiser, "step")]}
    with timed(parts, device) as spent:
        synchronise(device)
        begun = time.perf_counter()
        for rows in batches:
            trainer.step(rows)
        synchronise(device)
        whole = time.perf_counter() - begun
    found = {label: seconds / len(batches) for label, seconds in spent.items()}
    return found | {"the rest": whole / len(batches) - sum(found.values()), "whole": whole / len(batches)}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("trainer")
    for name in ("d", "width", "k", "batch", "steps", "threads"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seconds", type=float, default=45.0, help="no further step begins after this long")
    parser.add_argument("--option", action="append", default=[])
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    torch.manual_seed(0)
    module = importlib.import_module(f"bench.peers.{asked.trainer}")
    peak = gemm_peak(asked.device)
    n = max(N_ROWS, 4 * asked.batch)
    sample = synthetic(n, asked.d, asked.width, device=asked.device)
    import_lazily_loaded()
    gc.collect()
    options = dict(option.split("=", 1) for option in asked.option)
    if asked.trainer in ("lexiscope_trainer", "paper_soft"):
        options |= {"tokens": sample.tokens, "embedding": sample.embedding}
    before, on_gpu = memory("VmRSS"), asked.device != "cpu"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    else:
        Path("/proc/self/clear_refs").write_text("5")
    steps = asked.steps + 4
    trainer = module.Trainer(
        sample.x,
        d_sae=asked.width,
        k=asked.k,
        batch=asked.batch,
        steps=max(steps, 100),
        device=asked.device,
        **options,
    )
    starting = (torch.cuda.max_memory_allocated() if on_gpu else memory("VmHWM")) - before
    batches = list(torch.arange(steps * asked.batch, device=asked.device).remainder(n).split(asked.batch))
    trainer.step(batches[0])
    begun, walls, cpus, load = time.perf_counter(), [], [], [os.getloadavg()[0]]
    for rows in batches[1 : asked.steps + 1]:
        synchronise(asked.device)
        wall, cpu = time.perf_counter(), time.process_time()
        trainer.step(rows)
        synchronise(asked.device)
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
        if time.perf_counter() - begun > asked.seconds:
            break
    load.append(os.getloadavg()[0])
    buffer = sample.x.numel() * sample.x.element_size() + sample.tokens.numel() * sample.tokens.element_size()
    extra: dict[str, Any] = (
        trainer.extra() if hasattr(trainer, "extra") else {"wall": 0.0, "cpu": 0.0, "note": ""}
    )
    found = {
        "name": module.NAME,
        "steps": len(walls),
        "wall": statistics.median(walls) + extra["wall"],
        "fastest": min(walls) + extra["wall"],
        "cpu": statistics.median(cpus) + extra["cpu"],
        "note": extra["note"],
        "peak": (torch.cuda.max_memory_allocated() if on_gpu else memory("VmHWM")) - before + buffer,
        "peak_starting": starting + buffer,
        "buffer": buffer,
        "gemm": peak,
        "load": load,
    }
    if hasattr(trainer, "bytes_of_state"):
        found["state"], found["beside"] = trainer.bytes_of_state(), trainer.bytes_beside()
        found["parts"] = breakdown(trainer, module, batches[1:4], asked.device)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
