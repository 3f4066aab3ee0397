"""Losses of architectures: scalar functions of tensors in scaled space."""

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lexiscope.sparse_code import abs_top_k, top_k
from trainer import sparse

AnchorMode = Literal["nearest", "logsumexp", "softmax"]
NEAREST = 10
"""How many of the nearest anchors the modes logsumexp and softmax take into account."""
CHUNK = 2048
"""Features whose cosines to all anchors are in memory at once."""


def mse(output: Tensor, target: Tensor) -> Tensor:
    """Mean squared error a dimension of [n, d]."""
    return (output - target).square().mean()


class SilentRows(NamedTuple):
    """The rows of features that have not fired for long, [m, d] but for the bias [m]."""

    encoder: Tensor
    b_enc: Tensor
    decoder: Tensor


def aux_k(residual: Tensor, x: Tensor, rows: SilentRows, k: int, *, signed: bool = False) -> Tensor:
    """AuxK (arXiv 2406.04093, appendix A.2): the mean squared error a dimension with which the best k of the
    silent rows reconstruct `residual` [n, d], the part of the target that the dictionary misses; the best are
    those of largest magnitude where the code is `signed`.
    """
    with torch.no_grad():
        pre = torch.addmm(rows.b_enc, x, rows.encoder.T)
        selected = (abs_top_k if signed else top_k)(pre, min(k, len(rows.b_enc)))
    code = sparse.encode(x, rows.encoder, rows.b_enc, selected)
    return mse(sparse.decode(code, rows.decoder, unit_rows=True), residual)


def anchor_pull(directions: Tensor, anchors: Tensor, mode: AnchorMode) -> Tensor:
    """[n] how well each direction [n, d] is anchored, differentiable in `directions`
    (docs/method.md#the-vasae-paper): its largest cosine to an anchor [vocab, d], or logsumexp or the
    softmax-weighted mean of its ten largest.

    Which anchors are nearest needs no gradient; the cosines to them do. That is the gradient of max and of
    topk, at a third of the cost.
    """
    unit = F.normalize(anchors.detach(), dim=-1)
    scores = []
    for part in directions.split(CHUNK):
        rows = F.normalize(part, dim=-1)
        with torch.no_grad():
            nearest = (
                (rows @ unit.T).topk(1 if mode == "nearest" else min(NEAREST, len(unit)), dim=-1).indices
            )
        cosines = torch.einsum("nd,nmd->nm", rows, unit[nearest])
        if mode == "nearest":
            scores.append(cosines[:, 0])
        elif mode == "logsumexp":
            scores.append(cosines.logsumexp(-1))
        else:
            scores.append((cosines.softmax(-1) * cosines).sum(-1))
    return torch.cat(scores)
