"""Train one library's dictionary on cached activations and measure its held-out FVE; runs in that library's
environment, which `python -m bench.trainers` makes.

    .venv/peers/saelens/bin/python -m experiments.peer_quality saelens_trainer OUT --cache DIR --layer 10

Every trainer sees the same rows in the same order. The dictionary is written in SAELens's layout, in raw
space; its FVE is printed beside the trainer's own reconstruction, which must agree where it does not select
over a batch. The last line printed is JSON.
"""

import argparse
import importlib
import json
import os
import time
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor

from bench.peers.activations import held_out_split


def fve(x: Tensor, rebuilt: Tensor, kept: Tensor) -> float:
    """1 − Σ‖x−x̂‖² / Σ‖x−μ‖² over the kept rows (docs/method.md#reconstruction)."""
    x, rebuilt = x[kept].double(), rebuilt[kept].double()
    return float(1 - (x - rebuilt).square().sum() / (x - x.mean(0)).square().sum())


class Applied(NamedTuple):
    rebuilt: Tensor
    """[n, d]"""
    fired: Tensor
    """[d_sae] which features did"""
    active: float
    """features a token"""


def apply(weights: dict[str, Tensor], x: Tensor, k: int) -> Applied:
    """The dictionary on raw x [n, d]: above its thresholds where it has some, else the k largest."""
    fired, active = torch.zeros(len(weights["b_enc"]), dtype=torch.bool), 0
    rebuilt = []
    for part in x.split(1024):
        code = torch.addmm(weights["b_enc"], part, weights["W_enc"])
        lowest = weights.get(
            "threshold", code.topk(k, dim=-1).values[:, -1:].nextafter(code.new_tensor(-1e9))
        )
        code *= (code > lowest) & (code > 0)
        fired |= (code > 0).any(0)
        active += int((code > 0).sum())
        rebuilt.append(code @ weights["W_dec"] + weights["b_dec"])
    return Applied(torch.cat(rebuilt), fired, active / len(x))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("trainer", help="saelens_trainer, sparsify_topk, or lexiscope_trainer")
    parser.add_argument("out", type=Path)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--layer", type=int, default=10)
    parser.add_argument("--d", type=int, default=576)
    parser.add_argument("--width", type=int, default=49152)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--tokens", type=int, default=200_000, help="distinct")
    parser.add_argument("--seen", type=int, help="tokens trained on; --tokens unless given")
    parser.add_argument("--held-out", type=int, default=20_000)
    parser.add_argument("--rate", type=float)
    parser.add_argument("--option", action="append", default=[], help="name=value for the trainer")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(given.seed)
    x, tokens, held_out = held_out_split(
        given.cache, given.layer, given.d, train=given.tokens, held_out=given.held_out, seed=given.seed
    )
    steps = (given.seen or given.tokens) // given.batch
    draw = torch.Generator().manual_seed(given.seed)
    epochs = -(-steps * given.batch // len(x))
    order = torch.cat([torch.randperm(len(x), generator=draw) for _ in range(epochs)])
    module = importlib.import_module(f"bench.peers.{given.trainer}")
    options = dict(option.split("=", 1) for option in given.option)
    if given.rate is not None:
        options["rate"] = given.rate
    if given.trainer == "lexiscope_trainer":
        options["tokens"] = tokens
    trainer = module.Trainer(x, d_sae=given.width, k=given.k, batch=given.batch, steps=steps, **options)
    begun, cpu = time.monotonic(), time.process_time()
    for step, rows in enumerate(order[: steps * given.batch].split(given.batch), 1):
        trainer.step(rows)
        if step in (1, 3) or step % 10 == 0:
            seconds = (time.monotonic() - begun) / step
            print(f"step {step}/{steps}  {seconds:.2f} s a step, load {os.getloadavg()[0]:.1f}", flush=True)
    seconds, cpu = time.monotonic() - begun, time.process_time() - cpu
    weights = trainer.dictionary()
    held_out = held_out.float()
    made = apply(weights, held_out, given.k)
    norms = held_out.norm(dim=-1)
    every, typical = torch.ones(len(norms), dtype=torch.bool), norms <= 4 * norms.median()
    own = module.reconstruct(trainer, held_out[:1024])
    found = {
        "trainer": module.NAME,
        "rate": options.get("rate", getattr(trainer, "rate", getattr(module, "RATE", None))),
        "options": given.option,
        "tokens": steps * given.batch,
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu, 1),
        "l0": round(made.active, 2),
        "fve": round(fve(held_out, made.rebuilt, typical), 4),
        "fve_with_outliers": round(fve(held_out, made.rebuilt, every), 4),
        "held_out": int(typical.sum()),
        "outliers": int((~typical).sum()),
        "fired": round(made.fired.float().mean().item(), 4),
        "own_reconstruction_differs_by": float(
            (own - made.rebuilt[:1024]).norm() / made.rebuilt[:1024].norm()
        ),
    }
    save(
        given.out,
        weights,
        given.k,
        {"hook_name": f"blocks.{given.layer}.hook_resid_post", "trained_by": found},
    )
    print(json.dumps(found))


def save(folder: Path, weights: dict[str, Tensor], k: int, metadata: dict[str, object]) -> None:
    """In SAELens's layout."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.contiguous() for name, tensor in weights.items()}
    save_file(tensors, folder / "sae_weights.safetensors")
    d_in, d_sae = weights["W_enc"].shape
    config = {
        "d_in": d_in,
        "d_sae": d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": metadata,
    }
    by_top_k = {"architecture": "topk", "k": k, "rescale_acts_by_decoder_norm": False}
    config |= {"architecture": "jumprelu"} if "threshold" in weights else by_top_k
    (folder / "cfg.json").write_text(json.dumps(config, indent=1))


if __name__ == "__main__":
    main()
