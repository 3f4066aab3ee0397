"""Encode and decode as autograd functions over `trainer.kernels`: whatever the loss on a code, both weight
gradients are computed from the rows that fired alone, and no dense code [n, d_sae] is kept for the backward
pass.

An architecture selects without a graph and lets `encode` attach the gradient:

    code = encode(x, encoder, b_enc, selected)      # selected: SparseCode, from any selection
    output = decode(code, decoder) + b_dec
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lexiscope.rounded import Scratch
from lexiscope.sparse_code import SparseCode, gather_sum
from trainer import kernels


def encode(
    x: Tensor, encoder: Tensor, b_enc: Tensor, selected: SparseCode, *, active: Tensor | None = None
) -> SparseCode:
    """`selected` with the gradient of values[n, j] = x[n] · encoder[indices[n, j]] + b_enc[indices[n, j]].

    x [n, d], encoder [d_sae, d], b_enc [d_sae]. Entries outside `active` [n, k] bool have no gradient; by
    default these are the entries with value 0, which a ReLU cut off or which pad the code.
    """
    active = selected.values != 0 if active is None else active
    values: Tensor = _Encode.apply(x, encoder, b_enc, selected.values, selected.indices, active)
    return SparseCode(values, selected.indices)


def decode(
    code: SparseCode, rows: Tensor, *, unit_rows: bool = False, wanted: Tensor | None = None
) -> Tensor:
    """[n, d] Σ_j values_j · rows[indices_j], for a code [n, k] and rows [d_sae, d].

    With `unit_rows` the rows have norm 1 and stay so: their gradient has no part along the row itself, as
    that of rows / ‖rows‖ has none. Values have a gradient where they are not 0, or where `wanted` [n, k]
    bool says.
    """
    output: Tensor = _Decode.apply(code.values, code.indices, rows, unit_rows, wanted)
    return output


def fired(code: SparseCode, d_sae: int) -> Tensor:
    """[d_sae] bool which features fired; the host does not wait."""
    found = torch.zeros(d_sae + 1, dtype=torch.bool, device=code.values.device)
    found[torch.where(code.values != 0, code.indices, d_sae).reshape(-1)] = True
    return found[:d_sae]


def above(
    x: Tensor,
    encoder: Tensor,
    b_enc: Tensor,
    lowest: Tensor,
    *,
    scratch: Scratch | None = None,
    signed: bool = False,
) -> SparseCode:
    """Every pre-activation of x [n, d] that is above its feature's `lowest` [d_sae], which is not negative,
    or whose magnitude is, where the code is `signed`; in the order of features, padded with value 0.
    `scratch` bounds the tokens held at once.
    """
    scratch = Scratch(len(x)) if scratch is None else scratch
    buffer = scratch.of(len(encoder), torch.float32, x.device)
    values, token, feature = [], [], []
    for start in range(0, len(x), len(buffer)):
        part = x[start : start + len(buffer)]
        pre = torch.addmm(b_enc, part, encoder.T, out=buffer[: len(part)])
        row, column = ((pre.abs() if signed else pre) > lowest).nonzero(as_tuple=True)
        values.append(pre[row, column])
        token.append(row + start)
        feature.append(column)
    return padded(torch.cat(token), torch.cat(feature), torch.cat(values), len(x))


def padded(token: Tensor, feature: Tensor, values: Tensor, n: int) -> SparseCode:
    """The code [n, …] of firings [m], which are sorted by token; padded with value 0."""
    counts = torch.bincount(token, minlength=n)
    width = max(1, int(counts.max()))
    place = torch.arange(len(token), device=token.device) - (counts.cumsum(0) - counts)[token]
    code = SparseCode(values.new_zeros(n, width), token.new_zeros(n, width))
    code.values[token, place] = values
    code.indices[token, place] = feature
    return code


def gathered(by_feature: Tensor, indices: Tensor) -> Tensor:
    """[n, k] of by_feature [d_sae]; differentiable in it."""
    return by_feature.index_select(0, indices.reshape(-1)).view(indices.shape)


class _Encode(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, encoder: Tensor, b_enc: Tensor, values: Tensor, indices: Tensor, active: Tensor
    ) -> Tensor:
        ctx.save_for_backward(x, encoder, indices, active)
        return values.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        x, encoder, indices, active = ctx.saved_tensors
        slope = slope * active
        d_x = gather_sum(SparseCode(slope, indices), encoder) if ctx.needs_input_grad[0] else None
        d_encoder = d_bias = None
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
            d_encoder, d_bias = torch.empty_like(encoder), encoder.new_empty(len(encoder))
            order = kernels.firings(SparseCode(active.to(slope.dtype), indices), len(encoder))
            kernels.row_gradients(order, slope, x, d_encoder, total=d_bias)
        return d_x, d_encoder, d_bias, None, None, None


class _Decode(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, values: Tensor, indices: Tensor, rows: Tensor, unit_rows: bool, wanted: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(values, indices, rows, values != 0 if wanted is None else wanted)
        ctx.unit_rows = unit_rows
        return kernels.decode(SparseCode(values, indices), rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        values, indices, rows, wanted = ctx.saved_tensors
        code = SparseCode(values, indices)
        d_values = None
        if ctx.needs_input_grad[0]:
            d_values = kernels.code_gradient(SparseCode(wanted.to(rows.dtype), indices), rows, slope)
        d_rows = None
        if ctx.needs_input_grad[2]:
            d_rows = torch.empty_like(rows)
            order = kernels.firings(code, len(rows))
            kernels.row_gradients(
                order, values, slope.contiguous(), d_rows, tangent_to=rows if ctx.unit_rows else None
            )
        return d_values, None, d_rows, None, None
