"""The sparse dictionary: encode a residual stream to (values, indices), decode it back.

Weights are in the raw space of the hook point: whatever centring and scaling training used is folded in
(`fold`), so that `x̂ = Σ_j values_j · W_dec[indices_j] + (x P) Q + b_dec` with `values, indices = TopK(ReLU(x
W_enc + b_enc), k)`. The dense path (P, Q) is there only where a recipe asks for it. Dictionaries of other
libraries may select by a threshold instead of TopK, and may normalise each x first; what else they do is
folded into the weights (`lexiscope.foreign`).
"""

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

LAYER_NORM_EPSILON = 1e-5
"""Added to the deviation before encoding and not undone after decoding, as SAELens does."""


class SparseCode(NamedTuple):
    """The code of n tokens; rows with fewer than k active features are padded with value 0."""

    values: Tensor
    """[n, k] activations, non-negative, descending."""
    indices: Tensor
    """[n, k] feature indices."""


class Selection(NamedTuple):
    """The code of n tokens, and what came nearest to being in it."""

    code: SparseCode
    lost: SparseCode
    """[n, m] the highest positive pre-activations that were not selected; padded with value 0"""


@dataclass(frozen=True)
class Dictionary:
    """A sparse autoencoder with a TopK code, or with one by thresholds. All tensors share dtype and device."""

    W_enc: Tensor
    """[d_in, d_sae]"""
    b_enc: Tensor
    """[d_sae]"""
    W_dec: Tensor
    """[d_sae, d_in]; row i is the direction of feature i"""
    b_dec: Tensor
    """[d_in]"""
    k: int
    """0 where `threshold` selects"""
    dense_in: Tensor | None = None
    """[d_in, rank] P of the dense path"""
    dense_out: Tensor | None = None
    """[rank, d_in] Q of the dense path"""
    threshold: Tensor | None = None
    """[d_sae] a feature fires where its pre-activation is positive and above its threshold (JumpReLU; zeros:
    ReLU)
    """
    normalise: Literal["none", "constant_norm", "layer_norm"] = "none"
    """what is done to each x before encoding and undone after decoding: scaled to norm √d, or standardised
    over its width
    """

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
        """[n, d_sae] before the selection, for x [n, d_in]."""
        if self.normalise != "none":
            x = (x - self._shift(x)) / (
                self._scale(x) + (LAYER_NORM_EPSILON if self.normalise == "layer_norm" else 0.0)
            )
        return F.linear(x, self.W_enc.T, self.b_enc)

    def encode(self, x: Tensor) -> SparseCode:
        """The features of each row of x [n, d_in] that are selected; as many columns as the fullest row
        needs.
        """
        if self.threshold is None:
            return top_k(self.pre_activations(x), self.k)
        return self.select(x, lost=0).code

    def select(self, x: Tensor, *, lost: int) -> Selection:
        """As `encode`, and the `lost` highest pre-activations beside it."""
        pre = self.pre_activations(x)
        if self.threshold is None:
            wide = pre.topk(min(self.k + lost, self.d_sae), dim=-1)
            values = wide.values.relu_()
            code = SparseCode(values[:, : self.k], wide.indices[:, : self.k])
            return Selection(code, SparseCode(values[:, self.k :], wide.indices[:, self.k :]))
        fires = (pre > self.threshold) & (pre > 0)
        width = max(1, int(fires.sum(-1).max())) if len(pre) else 1
        code = SparseCode(*pre.masked_fill(~fires, 0).topk(width, dim=-1))
        silent = pre.masked_fill_(fires, 0).relu_().topk(min(lost, self.d_sae), dim=-1)
        return Selection(code, SparseCode(silent.values, silent.indices))

    def _scale(self, x: Tensor) -> Tensor | float:
        """[n, 1] what a reconstruction of x is multiplied by; encoding divides by it, but for an epsilon."""
        match self.normalise:
            case "constant_norm":
                return x.norm(dim=-1, keepdim=True) / self.d_in**0.5
            case "layer_norm":
                return x.std(dim=-1, keepdim=True)
        return 1.0

    def _shift(self, x: Tensor) -> Tensor | float:
        """[n, 1] what was taken off x before that."""
        return x.mean(dim=-1, keepdim=True) if self.normalise == "layer_norm" else 0.0

    def decode_sparse(self, code: SparseCode, x: Tensor) -> Tensor:
        """[n, d_in] the sparse part alone, without bias or dense path (x feeds only the normalisation's
        scale).
        """
        return gather_sum(code, self.W_dec) * self._scale(x)

    def writes(self, x: Tensor, features: Tensor, values: Tensor) -> Tensor:
        """[m, d_in] what one feature each, features [m], adds to the reconstruction of x [m, d_in] at
        activation values [m].
        """
        return values[:, None] * self.W_dec[features] * self._scale(x)

    def dense_part(self, x: Tensor) -> Tensor:
        """[n, d_in] what the dense path adds; zeros where there is none."""
        if self.dense_in is None or self.dense_out is None:
            return torch.zeros_like(x)
        return (x @ self.dense_in) @ self.dense_out

    def decode(self, code: SparseCode, x: Tensor) -> Tensor:
        """[n, d_in] the whole reconstruction of x from its code (x itself feeds only the dense path and the
        normalisation).
        """
        return self.decode_sparse(code, x) + self.dense_part(x) + self.b_dec * self._scale(x) + self._shift(x)

    def reconstruct(self, x: Tensor) -> Tensor:
        """[..., d_in] reconstruction of a residual stream [..., d_in]."""
        flat = x.reshape(-1, x.shape[-1])
        return self.decode(self.encode(flat), flat).reshape(x.shape)

    def fold(self, mean: Tensor, scale: float) -> "Dictionary":
        """The same dictionary on raw x, where this one was trained on `x · scale − mean` (mean [d_in] in
        scaled space).

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

    def centred(self) -> "Dictionary":
        """The same dictionary on raw x, where this one reads x less its mean over the width
        (TransformerLens's `center_writing_weights`).

        Activations keep their value; a dense path of rank 1 carries the mean over to the reconstruction.
        """
        ones = torch.ones_like(self.b_dec)
        return replace(
            self,
            W_enc=self.W_enc - self.W_enc.mean(0),
            dense_in=ones[:, None] / self.d_in,
            dense_out=ones[None],
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
        """The transpose of `gather_sum`: [m, d] Σ over each feature's tokens of weight · x[token]; weights
        [n, k], x [n, d].
        """
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
