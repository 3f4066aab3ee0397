"""A sparse code [n, k] as (values, indices), and the sums over it that need no dense code."""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from lexiscope.grouped_top_k import grouped_top_k


class SparseCode(NamedTuple):
    """The code of n tokens; rows with fewer than k active features are padded with value 0."""

    values: Tensor
    """[n, k] activations, descending; non-negative, but for a signed selection, whose magnitudes descend"""
    indices: Tensor
    """[n, k] feature indices."""


def top_k(pre_activations: Tensor, k: int) -> SparseCode:
    """ReLU, then the k largest of each row [n, d_sae]."""
    values, indices = grouped_top_k(pre_activations, k)
    return SparseCode(values.relu_(), indices)


def abs_top_k(pre_activations: Tensor, k: int) -> SparseCode:
    """The k of largest magnitude of each row [n, d_sae], with their sign."""
    indices = grouped_top_k(pre_activations.abs(), k)[1]
    return SparseCode(pre_activations.gather(-1, indices), indices)


def gather_sum(code: SparseCode, rows: Tensor) -> Tensor:
    """Σ_j values_j · rows[indices_j] for each token: [n, d] from rows [d_sae, d], without a dense code."""
    return F.embedding_bag(code.indices, rows, per_sample_weights=code.values.to(rows.dtype), mode="sum")
