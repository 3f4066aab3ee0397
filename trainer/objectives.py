"""Terms of the loss, each a scalar function of tensors in scaled space; an architecture's `losses` weights
and names them.

`TERMS` holds those that any architecture takes by configuration (`--set terms=NAME:WEIGHT`): functions of the
architecture, the batch, its forward pass and the step.
"""

from collections.abc import Callable
from math import isfinite
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lexiscope.sparse_code import abs_top_k, top_k
from trainer import sparse
from trainer.errors import RecipeError

if TYPE_CHECKING:
    from trainer.activations.passages import TrainingBatch
    from trainer.architectures.base import Architecture, Pass, Step

Term = Callable[["Architecture", "TrainingBatch", "Pass", "Step"], Tensor]
TERMS: dict[str, Term] = {}
"""name → the term, before its weight"""

AnchorMode = Literal["nearest", "logsumexp", "softmax"]
NEAREST = 10
"""How many of the nearest anchors the modes logsumexp and softmax take into account."""
CHUNK = 2048
"""Features whose cosines to all anchors are in memory at once."""


def term_weights(text: str) -> dict[str, float]:
    """{name: weight} of NAME:WEIGHT,NAME:WEIGHT. Raises RecipeError for an unknown term or a weight that is
    no finite number.
    """
    weights: dict[str, float] = {}
    for part in filter(None, text.split(",")):
        name, _, weight = part.partition(":")
        if name not in TERMS:
            raise RecipeError(f"There is no objective term '{name}'; there are {', '.join(TERMS) or 'none'}.")
        try:
            weights[name] = float(weight)
        except ValueError:
            weights[name] = float("nan")
        if not isfinite(weights[name]):
            raise RecipeError(f"The weight of '{name}' is '{weight}': write {name}:NUMBER.")
    return weights


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
