"""The sparse dictionary: encode a residual stream to (values, indices), decode it back.

Weights are in the raw space of the hook point: whatever centring and scaling training used is folded in (`fold`), so that
`x̂ = Σ_j values_j · W_dec[indices_j] + (x P) Q + b_dec` with `values, indices = TopK(ReLU(x W_enc + b_enc), k)`.
The dense path (P, Q) is there only where a recipe asks for it.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class SparseCode(NamedTuple):
    """The code of n tokens; rows with fewer than k active features are padded with value 0."""

    values: Tensor
    """[n, k] activations, non-negative, descending."""
    indices: Tensor
    """[n, k] feature indices."""


@dataclass(frozen=True)
class Dictionary:
    """A sparse autoencoder with TopK code. All tensors share dtype and device."""

    W_enc: Tensor
    """[d_in, d_sae]"""
    b_enc: Tensor
    """[d_sae]"""
    W_dec: Tensor
    """[d_sae, d_in]; row i is the direction of feature i"""
    b_dec: Tensor
    """[d_in]"""
    k: int
    dense_in: Tensor | None = None
    """[d_in, rank] P of the dense path"""
    dense_out: Tensor | None = None
    """[rank, d_in] Q of the dense path"""

    @property
    def d_in(self) -> int:
        return self.W_dec.shape[1]

    @property
    def d_sae(self) -> int:
        return self.W_dec.shape[0]

    @property
    def directions(self) -> Tensor:
        """[d_sae, d_in] unit-norm rows of W_dec."""
        return F.normalize(self.W_dec, dim=-1)

    def pre_activations(self, x: Tensor) -> Tensor:
        """[n, d_sae] before ReLU and TopK, for x [n, d_in]."""
        return F.linear(x, self.W_enc.T, self.b_enc)

    def encode(self, x: Tensor) -> SparseCode:
        """The k largest pre-activations of each row of x [n, d_in], negatives set to 0."""
        return top_k(self.pre_activations(x), self.k)

    def decode_sparse(self, code: SparseCode) -> Tensor:
        """[n, d_in] the sparse part alone, without bias or dense path."""
        return gather_sum(code, self.W_dec)

    def dense_part(self, x: Tensor) -> Tensor:
        """[n, d_in] what the dense path adds; zeros where there is none."""
        if self.dense_in is None or self.dense_out is None:
            return torch.zeros_like(x)
        return (x @ self.dense_in) @ self.dense_out

    def decode(self, code: SparseCode, x: Tensor) -> Tensor:
        """[n, d_in] the whole reconstruction of x from its code (x itself feeds only the dense path)."""
        return self.decode_sparse(code) + self.dense_part(x) + self.b_dec

    def reconstruct(self, x: Tensor) -> Tensor:
        """[..., d_in] reconstruction of a residual stream [..., d_in]."""
        flat = x.reshape(-1, x.shape[-1])
        return self.decode(self.encode(flat), flat).reshape(x.shape)

    def fold(self, mean: Tensor, scale: float) -> "Dictionary":
        """The same dictionary on raw x, where this one was trained on `x · scale − mean` (mean [d_in] in scaled space).

        Activations keep their value; directions get norm 1 / scale.
        """
        dense_in, dense_out = self.dense_in, self.dense_out
        b_dec = self.b_dec + mean
        if dense_in is not None and dense_out is not None:
            b_dec = b_dec - (mean @ dense_in) @ dense_out
        return replace(
            self,
            W_enc=self.W_enc * scale,
            b_enc=self.b_enc - mean @ self.W_enc,
            W_dec=self.W_dec / scale,
            b_dec=b_dec / scale,
            dense_in=dense_in,
            dense_out=dense_out,
        )


def top_k(pre_activations: Tensor, k: int) -> SparseCode:
    """ReLU, then the k largest of each row [n, d_sae]."""
    values, indices = pre_activations.topk(k, dim=-1)
    return SparseCode(values.relu_(), indices)


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
        """The transpose of `gather_sum`: [m, d] Σ over each feature's tokens of weight · x[token]; weights [n, k], x [n, d]."""
        weight = weights.reshape(-1)[self.entries].to(x.dtype)
        return F.embedding_bag(self.tokens, x, self.offsets, per_sample_weights=weight, mode="sum")


def firing_order(code: SparseCode) -> FiringOrder:
    """Entries with value 0 are left out."""
    entries = (code.values.reshape(-1) > 0).nonzero().squeeze(1)
    flat = code.indices.reshape(-1)[entries]
    order = flat.argsort()
    features, counts = torch.unique_consecutive(flat[order], return_counts=True)
    entries = entries[order]
    return FiringOrder(features, counts.cumsum(0) - counts, entries // code.indices.shape[1], entries)
