"""Train one library's TopK dictionary on cached activations and measure its held-out FVE; runs in that
library's environment, which `python -m bench.trainers` makes.

    .venv/peers/saelens/bin/python -m experiments.peer_quality saelens_topk OUT --cache DIR --layer 10

Every trainer sees the same rows once. The dictionary is written in SAELens's layout, in raw space; its FVE is
printed beside the trainer's own reconstruction, which must agree.
"""

import argparse
import importlib
import json
import os
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from bench.peers.activations import held_out_split


def fve(x: Tensor, rebuilt: Tensor, kept: Tensor) -> float:
    """1 − Σ‖x−x̂‖² / Σ‖x−μ‖² over the kept rows (docs/method.md#reconstruction)."""
    x, rebuilt = x[kept].double(), rebuilt[kept].double()
    return float(1 - (x - rebuilt).square().sum() / (x - x.mean(0)).square().sum())


def apply(weights: dict[str, Tensor], x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """(reconstruction [n, d], which features fired [d_sae])."""
    fired = torch.zeros(len(weights["b_enc"]), dtype=torch.bool)
    rebuilt = []
    for part in x.split(1024):
        values, indices = (part @ weights["W_enc"] + weights["b_enc"]).topk(k, dim=-1)
        values = values.relu()
        fired[indices[values > 0]] = True
        rebuilt.append(
            torch.nn.functional.embedding_bag(
                indices, weights["W_dec"], per_sample_weights=values, mode="sum"
            )
            + weights["b_dec"]
        )
    return torch.cat(rebuilt), fired


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("trainer", help="saelens_topk, sparsify_topk, or lexiscope_topk")
    parser.add_argument("out", type=Path)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--layer", type=int, default=10)
    parser.add_argument("--d", type=int, default=576)
    parser.add_argument("--width", type=int, default=49152)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--tokens", type=int, default=200_000)
    parser.add_argument("--held-out", type=int, default=20_000)
    parser.add_argument("--rate", type=float)
    parser.add_argument("--option", action="append", default=[], help="name=value for the trainer")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(given.seed)
    steps = given.tokens // given.batch
    x, tokens, held_out = held_out_split(
        given.cache, given.layer, given.d, train=steps * given.batch, held_out=given.held_out, seed=given.seed
    )
    module = importlib.import_module(f"bench.peers.{given.trainer}")
    options = dict(option.split("=", 1) for option in given.option)
    options = {
        name: value == "True" if value in ("True", "False") else value for name, value in options.items()
    }
    if given.rate is not None:
        options["rate"] = given.rate
    if given.trainer == "lexiscope_topk":
        options["tokens"] = tokens
    begun = time.monotonic()
    trainer = module.Trainer(x, d_sae=given.width, k=given.k, batch=given.batch, steps=steps, **options)
    for step, rows in enumerate(torch.arange(len(x)).split(given.batch), 1):
        trainer.step(rows)
        if step in (1, 3) or step % 10 == 0:
            seconds = (time.monotonic() - begun) / step
            print(f"step {step}/{steps}  {seconds:.2f} s a step, load {os.getloadavg()[0]:.1f}", flush=True)
    seconds = time.monotonic() - begun
    weights = trainer.dictionary()
    held_out = held_out.float()
    rebuilt, fired = apply(weights, held_out, given.k)
    norms = held_out.norm(dim=-1)
    every, typical = torch.ones(len(norms), dtype=torch.bool), norms <= 4 * norms.median()
    own = module.reconstruct(trainer, held_out[:1024])
    found = {
        "trainer": module.NAME,
        "rate": options.get("rate", getattr(trainer, "rate", getattr(module, "RATE", None))),
        "options": given.option,
        "tokens": steps * given.batch,
        "seconds": round(seconds, 1),
        "fve": round(fve(held_out, rebuilt, typical), 4),
        "fve_with_outliers": round(fve(held_out, rebuilt, every), 4),
        "held_out": int(typical.sum()),
        "outliers": int((~typical).sum()),
        "fired": round(fired.float().mean().item(), 4),
        "own_reconstruction_differs_by": float((own - rebuilt[:1024]).norm() / rebuilt[:1024].norm()),
    }
    print(json.dumps(found))
    given.out.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: tensor.contiguous() for name, tensor in weights.items()}, given.out / "sae_weights.safetensors"
    )
    config = {
        "architecture": "topk",
        "d_in": given.d,
        "d_sae": given.width,
        "k": given.k,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "rescale_acts_by_decoder_norm": False,
        "metadata": {"hook_name": f"blocks.{given.layer}.hook_resid_post", "trained_by": found},
    }
    (given.out / "cfg.json").write_text(json.dumps(config, indent=1))


if __name__ == "__main__":
    main()
