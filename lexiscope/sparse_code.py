"""A sparse code [n, k] as (values, indices), and the sums over it that need no dense code."""

from typing import NamedTuple

import torch
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


class FiringOrder(NamedTuple):
    """A code turned round: its firings sorted by feature, for sums over the tokens of each feature."""

    features: Tensor
    """[m] the features that fired, ascending"""
    offsets: Tensor
    """[m] where each feature's firings begin"""
    tokens: Tensor
    """[firings] the token (row of the code) of each firing"""
    entries: Tensor
    """[firings] its place in the flattened code"""

    def sum(self, weights: Tensor, x: Tensor) -> Tensor:
        """The transpose of `gather_sum`: [m, d] Σ over each feature's tokens of weight · x[token]; weights
        [n, k], x [n, d].
        """
        weight = weights.reshape(-1)[self.entries].to(x.dtype)
        return F.embedding_bag(self.tokens, x, self.offsets, per_sample_weights=weight, mode="sum")


def firing_order(code: SparseCode) -> FiringOrder:
    """Entries with value 0 are left out."""
    entries = (code.values.reshape(-1) != 0).nonzero().squeeze(1)
    flat = code.indices.reshape(-1)[entries]
    order = flat.argsort()
    features, counts = torch.unique_consecutive(flat[order], return_counts=True)
    entries = entries[order]
    return FiringOrder(features, counts.cumsum(0) - counts, entries // code.indices.shape[1], entries)
