"""Terms on a dictionary's own code and rows, for architectures with `encoder`, `b_enc` and `decoder`."""

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.errors import RecipeError

if TYPE_CHECKING:
    from trainer.activations.passages import TrainingBatch
    from trainer.architectures.base import Architecture, Pass, Step

CHUNK_OF_ROWS = 8192
"""Rows that are compared with one another: the cost stays linear in the dictionary's width."""


def off_support(architecture: "Architecture", batch: "TrainingBatch", made: "Pass", step: "Step") -> Tensor:
    """ℓ1 norm of a token's positive pre-activations that the selection left out, mean over tokens: what is
    not selected is to be small, so that the selection is clear.
    """
    pre = _positive(architecture, batch)
    firing = (made.code.values != 0).to(pre.dtype)  # a code is padded with feature 0, which may also fire
    selected = torch.zeros_like(pre).scatter_add(1, made.code.indices, firing) > 0
    return pre.masked_fill(selected, 0).sum() / len(pre)


def l1_over_l2(architecture: "Architecture", batch: "TrainingBatch", made: "Pass", step: "Step") -> Tensor:
    """ℓ1 over ℓ2 norm of a token's positive pre-activations before the selection, mean over tokens. It is 1
    where one feature is active, √d_sae where all are alike, and does not change with their scale.
    """
    pre = _positive(architecture, batch)
    return (pre.sum(-1) / pre.norm(dim=-1).clamp_min(1e-12)).mean()


def norm_match(architecture: "Architecture", batch: "TrainingBatch", made: "Pass", step: "Step") -> Tensor:
    """Mean over tokens of the squared difference of the norms of code and input, which quasi-orthogonal rows
    of norm 1 would make equal (AFA, arXiv 2503.24277).
    """
    return (made.code.values.norm(dim=-1) - batch.x.norm(dim=-1)).square().mean()


def orthogonality(architecture: "Architecture", batch: "TrainingBatch", made: "Pass", step: "Step") -> Tensor:
    """Mean over the features of the square of the largest cosine that a decoder row has to another row of its
    chunk (OrtSAE, arXiv 2509.22033). The chunks are drawn anew each step.
    """
    return largest_cosines(_row(architecture, "decoder"), seed=step.number).square().mean()


def largest_cosines(rows: Tensor, *, seed: int) -> Tensor:
    """[F], in the order of the chunks: each row's largest cosine to another of its chunk; rows [F, d]."""
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed)).to(rows.device)
    n_chunks = -(-len(rows) // CHUNK_OF_ROWS)
    found = []
    for members in order.tensor_split(n_chunks):
        unit = F.normalize(rows[members], dim=-1)
        with torch.no_grad():  # which row is nearest needs no gradient, and a graph of all pairs no memory
            nearest = (unit @ unit.T).fill_diagonal_(-1).argmax(-1)
        found.append((unit * unit[nearest]).sum(-1))
    return torch.cat(found)


def _positive(architecture: "Architecture", batch: "TrainingBatch") -> Tensor:
    """[n, d_sae] positive pre-activations, or magnitudes in a signed dictionary; differentiable."""
    encoder, b_enc = _row(architecture, "encoder"), _row(architecture, "b_enc")
    pre = torch.addmm(b_enc, batch.x, encoder.T)
    return pre.abs() if getattr(architecture, "signed", False) else pre.relu()


def _row(architecture: "Architecture", name: str) -> Tensor:
    if name not in architecture.parameters:
        raise RecipeError(f"{architecture.config.name} has no '{name}', which this term of the loss needs.")
    return architecture.parameters[name]
