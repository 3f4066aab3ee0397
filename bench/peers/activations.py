"""Activations that every trainer is given: synthetic ones of GPT-2's kind, or a cache of a model's own. Needs
torch alone.
"""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

OUTLIER = 4.0
"""Positions whose norm is above this many medians are attention sinks; no trainer is given them."""


class Sample(NamedTuple):
    x: Tensor
    """[n, d] bf16, raw scale"""
    tokens: Tensor
    """[n] int64"""
    embedding: Tensor
    """[vocab, d] W_E"""


def synthetic(n: int, d: int, vocab: int, *, seed: int = 0, device: str = "cpu") -> Sample:
    """A stand-in for GPT-2: a mean, a heavy-tailed low-rank part, the current token's embedding, and 24 of
    16,384 sparse features.
    """
    draw = torch.Generator(device).manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, device=device)

    embedding = normal(vocab, d)
    zipf = (torch.arange(vocab, device=device) + 2.7).reciprocal()
    tokens = zipf.multinomial(n, replacement=True, generator=draw)
    mean, basis = 3 * normal(d), normal(d, d) / d**0.5
    spectrum = 30 / torch.arange(1, d + 1, device=device).float()
    features, firing = normal(16384, d), (torch.arange(16384, device=device) + 50.0).reciprocal()
    x = torch.empty(n, d, dtype=torch.bfloat16, device=device)
    for rows in torch.arange(n, device=device).split(8192):
        which = firing.multinomial(24 * len(rows), replacement=True, generator=draw).view(-1, 24)
        strengths = normal(*which.shape).exp() * 0.5
        sparse = torch.nn.functional.embedding_bag(which, features, per_sample_weights=strengths, mode="sum")
        x[rows] = (
            mean + (normal(len(rows), d) * spectrum) @ basis + embedding[tokens[rows]] + sparse
        ).bfloat16()
    return Sample(x, tokens, embedding)


def held_out_split(
    cache: Path, layer: int, d: int, *, train: int, held_out: int, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Of the cache `tokens.npy` and `<layer>.bf16`: (x [train, d] bf16 in random order, its tokens, the last
    `held_out` rows).

    The rows that train are drawn without replacement from all but the held-out ones, outliers left out.
    """
    import numpy as np

    tokens = torch.from_numpy(np.load(cache / "tokens.npy"))
    n = len(tokens)
    x = torch.from_file(str(cache / f"{layer}.bf16"), size=n * d, dtype=torch.bfloat16).view(n, d)
    norms = torch.cat([part.float().norm(dim=-1) for part in x[:-held_out].split(65536)])
    kept = (norms <= OUTLIER * norms.median()).nonzero().squeeze(1)
    if len(kept) < train:
        raise SystemExit(f"{cache} has {len(kept):,} rows to train on, fewer than {train:,}.")
    rows = kept[torch.randperm(len(kept), generator=torch.Generator().manual_seed(seed))[:train]]
    return x[rows].clone(), tokens[rows], x[-held_out:].clone()
