"""The step's heavy arithmetic: Triton kernels for CUDA tensors, plain PyTorch for all others, the same
numbers from both.

In: centred activations y [n, d] and the rows [d_sae, d] of a dictionary in training; out: its sparse code,
what the code decodes to, and the two gradients. Widths need not be multiples of a tile: kernels pad and mask.
No kernel uses atomics, so sums repeat bit for bit, and none makes the host wait. `TRITON_INTERPRET=1` runs
the kernels on CPU tensors, slowly: that is for tests.

`encode_top_k` keeps pre-activations in memory between its two kernels. Recomputing the chosen groups would
read k · GROUP encoder rows a token: at n 8,192, k 32 that is 13 GB (d 768) or 69 GB (d 4,096), where storing
writes 1.7 GB (F 50,257) or 4.2 GB (F 128,256) and reads 34 MB. At 2d/4 = 384 or 2,048 FLOP a byte the product
stays bound by arithmetic (an H200 balances at 206).
"""

import warnings
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lexiscope.anchors import into_cones
from lexiscope.rounded import Scratch
from lexiscope.sparse_code import SparseCode, abs_top_k, gather_sum, top_k

try:
    import triton
    import triton.language as tl
except ImportError:  # not Linux, or PyTorch for the CPU alone
    triton = None

GROUP = 32
"""Features in a group: 128 bytes of float32, and near √(F / k), where the two steps of the selection are of
equal length.
"""
SCRATCH = 2**29
"""Most bytes of pre-activations held at once; longer batches go through in parts."""
HELD = 512
"""Rows that a CPU works on at once, which stay in its cache."""
with warnings.catch_warnings():  # PyTorch says once a process that the CSR layout is in beta
    warnings.simplefilter("ignore", UserWarning)
    torch.sparse_csr_tensor(torch.zeros(1).long(), torch.zeros(0).long(), torch.zeros(0), (0, 0))


class Tile(NamedTuple):
    tokens: int
    features: int
    depth: int
    warps: int
    stages: int


ENCODE = Tile(128, 128, 64, 4, 3)
"""98 kB and one warpgroup: two tiles share a multiprocessor, so that one stores while the other multiplies.
"""
ENCODE_FLOAT32 = Tile(64, 64, 32, 4, 2)
"""Tensor cores do not multiply float32 as it is: a tile that fits in the registers."""


def has_kernels(x: Tensor) -> bool:
    """Whether kernels serve tensors on x's device."""
    return triton is not None and (x.is_cuda or triton.knobs.runtime.interpret)


# --- the code ---


def encode_top_k(
    y: Tensor,
    encoder: Tensor,
    b_enc: Tensor,
    k: int,
    *,
    dtype: torch.dtype | None = None,
    scratch: Scratch | None = None,
    signed: bool = False,
) -> SparseCode:
    """ReLU, then the k largest of y [n, d] · encoder [F, d]ᵀ + b_enc [F], exactly; of equal ones the kernel
    takes the lower index. `signed` takes the k of largest magnitude instead, with their sign.

    Two stages: the greatest of each group of GROUP features, then the k best of the k groups whose greatest
    are largest. This is exact: were one of the k largest values outside those groups, each of the k groups
    would hold a value at least as large, its greatest, so k values would come before it. Ties fall the same
    way in both stages, as the order is (value, lower index first).

    y and encoder are multiplied in `dtype`, float32 or bfloat16 (y's unless given); b_enc and the values are
    float32. Sums are float32; the plain path rounds them to `dtype`, and works in `scratch`, as many tokens
    at a time as that is for (fresh pages cost a CPU more than the top k).
    """
    dtype = y.dtype if dtype is None else dtype
    if has_kernels(y):
        y, encoder = y.to(dtype).contiguous(), encoder.to(dtype).contiguous()
        above = _encode_top_k(y, encoder, b_enc, k)
        return _of_both_signs(above, _encode_top_k(-y, encoder, -b_enc, k), k) if signed else above
    scratch = Scratch(len(y)) if scratch is None else scratch
    rounded = scratch.rounded(encoder, b_enc) if dtype is torch.bfloat16 else None
    pre = scratch.of(len(encoder), torch.float32 if rounded is None else dtype, y.device)
    parts = []
    for part in y.split(scratch.tokens):
        out = pre[: len(part)]
        if rounded is None:
            torch.addmm(b_enc, part.float(), encoder.float().T, out=out)
        else:
            rounded.pre_activations(part, out=out)
        code = abs_top_k(out, k) if signed else top_k(out, k)
        parts.append(SparseCode(code.values.float(), code.indices))
    return SparseCode(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


def _of_both_signs(above: SparseCode, below: SparseCode, k: int) -> SparseCode:
    """The k of largest magnitude among the k highest of each sign; `below` holds the negated ones."""
    both = SparseCode(
        torch.cat([above.values, below.values], 1), torch.cat([above.indices, below.indices], 1)
    )
    values, column = both.values.topk(k, dim=-1)
    return SparseCode(torch.where(column < k, values, -values), both.indices.gather(1, column))


def decode(code: SparseCode, rows: Tensor) -> Tensor:
    """[n, d] float32 Σ_j values_j · rows[indices_j], for rows [F, d]."""
    if not has_kernels(rows):
        return gather_sum(code, rows)
    (n, k), d = code.indices.shape, rows.shape[1]
    out = torch.empty(n, d, device=rows.device)
    _decode[n, triton.cdiv(d, 256)](*_dense(*code, rows), out, k, d, BLOCK_K=8, BLOCK_D=256)
    return out


def code_gradient(code: SparseCode, rows: Tensor, slope: Tensor, order: "Firings | None" = None) -> Tensor:
    """[n, k] ∂loss/∂values: ⟨slope, rows[i]⟩ where the value is not 0, else 0, for rows [F, d]; `order` is
    the code turned round (`firings`), where it is there already.
    """
    (n, k), d = code.indices.shape, rows.shape[1]
    if not has_kernels(rows):
        return _code_gradient_plain(code, rows, slope, firings(code, len(rows)) if order is None else order)
    out = torch.empty(n, k, device=rows.device)
    grid = (n, triton.cdiv(k, 8))
    _code_gradient[grid](*_dense(*code, rows, slope), out, k, d, BLOCK_K=8, BLOCK_D=256)
    return out


def _dense(*tensors: Tensor) -> Iterator[Tensor]:
    """As the kernels address them: a code may be the first columns of a wider one."""
    return (tensor.contiguous() for tensor in tensors)


def _code_gradient_plain(code: SparseCode, rows: Tensor, slope: Tensor, order: "Firings") -> Tensor:
    """Products of firings in order of feature: each row is read once, and slopes stay in cache."""
    used = int(order.bounds[-1])
    pattern = torch.sparse_csr_tensor(
        order.bounds,
        order.tokens[:used].long(),
        slope.new_zeros(used),
        (len(rows), len(slope)),
        check_invariants=False,
    )
    found = torch.sparse.sampled_addmm(pattern, rows, slope.T, beta=0.0).values()
    return (
        slope.new_zeros(code.values.numel())
        .index_copy_(0, order.entries[:used].long(), found)
        .view_as(code.values)
    )


# --- the rows ---


class Firings(NamedTuple):
    """A code turned round: its firings in order of feature, then of token. Made without the host learning how
    many there are.
    """

    bounds: Tensor
    """[d_sae + 1] the firings of feature i are those from bounds[i] up to bounds[i + 1]"""
    tokens: Tensor
    """[n · k] the token of each firing; past the last bound, entries with value 0"""
    entries: Tensor
    """[n · k] its place in the flattened code"""
    longest_first: Tensor | None
    """[d_sae] features in the order kernels take them: one that always fires starts at once, not last"""

    @property
    def fired(self) -> Tensor:
        """[d_sae] bool"""
        return self.bounds.diff() > 0


def firings(code: SparseCode, d_sae: int) -> Firings:
    flat = torch.where(code.values != 0, code.indices, d_sae).reshape(-1).int()
    features, entries = flat.sort(stable=True)
    bounds = torch.searchsorted(features, torch.arange(d_sae + 1, dtype=torch.int32, device=flat.device))
    longest_first = bounds.diff().argsort(descending=True) if has_kernels(flat) else None
    return Firings(bounds, entries // code.indices.shape[1], entries, longest_first)


def row_gradients(
    order: Firings,
    weights: Tensor,
    x: Tensor,
    out: Tensor,
    *,
    total: Tensor | None = None,
    tangent_to: Tensor | None = None,
) -> None:
    """Into row i of out [F, d]: Σ weight · x[token] over the firings of feature i; 0 where it did not fire.
    weights [n, k], x [n, d].

    `total` [F] receives Σ weight. With `tangent_to` [F, d], unit rows, what lies along each row's own is
    taken off its sum.
    """
    if not has_kernels(x):
        _row_gradients_plain(order, weights, x, out, total, tangent_to)
        return
    n_features, d = out.shape
    grid = (n_features, triton.cdiv(d, 128))
    sums = out if total is None else total
    _row_sums[grid](
        order.longest_first, order.bounds, order.tokens, order.entries, weights.contiguous(), x.contiguous(),
        out, sums, d, TOTAL=total is not None, BLOCK_N=16, BLOCK_D=128,
    )  # fmt: skip
    if tangent_to is not None:
        _tangent[n_features,](out, tangent_to.contiguous(), d, BLOCK_D=triton.next_power_of_2(d))


def _row_gradients_plain(
    order: Firings, weights: Tensor, x: Tensor, out: Tensor, total: Tensor | None, tangent_to: Tensor | None
) -> None:
    """In chunks that stay in cache."""
    used = int(order.bounds[-1])
    weight = weights.reshape(-1)[order.entries[:used]].to(x.dtype)
    ends = order.bounds[HELD::HELD].tolist()
    begin = 0
    for first, end in zip(range(0, len(out), HELD), [*ends, used] if len(out) % HELD else ends, strict=True):
        rows = slice(first, first + HELD)
        sums = F.embedding_bag(
            order.tokens[begin:end],
            x,
            order.bounds[rows][: len(out) - first] - begin,
            per_sample_weights=weight[begin:end],
            mode="sum",
        )
        if tangent_to is not None:
            unit = tangent_to[rows]
            sums -= (sums * unit).sum(-1, keepdim=True) * unit
        out[rows] = sums
        begin = end
    if total is not None:
        upto = F.pad(weight.double().cumsum(0), (1, 0))[order.bounds]
        total.copy_(upto.diff())


def hold_rows(
    rows: Tensor, anchors: Tensor | None = None, assigned: Tensor | None = None, cosine: float = 0.0
) -> None:
    """In place: rows [F, d] to unit norm, and those with a token in `assigned` [F] into the cone of its unit
    anchor [vocab, d].

    A row assigned −1 is free; without anchors all are. O(F · d): each row meets its own anchor alone.
    """
    if has_kernels(rows):
        d = rows.shape[1]
        sine, width = (1 - cosine**2) ** 0.5, triton.next_power_of_2(d)
        if anchors is None or assigned is None:
            _hold[len(rows),](rows, rows, rows, cosine, sine, d, ANCHORED=False, BLOCK_D=width)
        else:
            held_by = anchors.contiguous(), assigned
            _hold[len(rows),](rows, *held_by, cosine, sine, d, ANCHORED=True, BLOCK_D=width)
        return
    for first in range(0, len(rows), HELD):
        features = slice(first, first + HELD)
        part = rows[features]
        held = F.normalize(part, dim=-1)
        if anchors is not None and assigned is not None:
            token = assigned[features]
            held = torch.where(
                (token >= 0)[:, None], into_cones(part, anchors[token.clamp_min(0)], cosine), held
            )
        part.copy_(held)


# --- the kernels ---


def _encode_top_k(y: Tensor, encoder: Tensor, b_enc: Tensor, k: int, tile: Tile | None = None) -> SparseCode:
    n, n_features, d = len(y), len(encoder), y.shape[1]
    tile = tile or (ENCODE_FLOAT32 if y.dtype == torch.float32 else ENCODE)
    groups = triton.cdiv(n_features, GROUP)
    parts = triton.cdiv(n * groups * GROUP * 4, SCRATCH)
    rows = triton.cdiv(triton.cdiv(n, parts), tile.tokens) * tile.tokens if parts > 1 else n
    pre = torch.empty(rows, groups * GROUP, device=y.device)
    greatest = torch.empty(rows, groups, device=y.device)
    code = SparseCode(
        torch.empty(n, k, device=y.device), torch.empty(n, k, dtype=torch.int64, device=y.device)
    )
    kept = max(2, triton.next_power_of_2(k))  # tl.topk cannot keep 1
    for start in range(0, n, rows):
        part = y[start : start + rows]
        grid = (triton.cdiv(len(part), tile.tokens) * triton.cdiv(n_features, tile.features),)
        _encode[grid](
            part, encoder, b_enc, pre, greatest, len(part), n_features, d, groups,
            GROUP=GROUP, BLOCK_N=tile.tokens, BLOCK_F=tile.features, BLOCK_D=tile.depth,
            WHOLE=d % tile.depth == 0, num_warps=tile.warps, num_stages=tile.stages,
        )  # fmt: skip
        values, indices = code.values[start : start + rows], code.indices[start : start + rows]
        width = max(triton.next_power_of_2(groups), kept)
        _select[len(part),](pre, greatest, values, indices, k, groups, GROUP=GROUP, KEPT=kept, WIDTH=width)
    return code


if triton is not None:

    @triton.jit
    def _encode(
        y, encoder, b_enc, pre, greatest, n, n_features, d, groups,
        GROUP: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_F: tl.constexpr, BLOCK_D: tl.constexpr,
        WHOLE: tl.constexpr,
    ):  # fmt: skip
        """One tile of pre-activations and its groups' greatest. Tiles of one feature range run together:
        encoder rows are read once.
        """
        tiles = tl.cdiv(n, BLOCK_N)
        tokens = tl.program_id(0) % tiles * BLOCK_N + tl.arange(0, BLOCK_N)
        features = tl.program_id(0) // tiles * BLOCK_F + tl.arange(0, BLOCK_F)
        depth = tl.arange(0, BLOCK_D)
        left = y + tl.where(tokens < n, tokens, 0)[:, None].to(tl.int64) * d + depth[None, :]
        right = (
            encoder + tl.where(features < n_features, features, 0)[None, :].to(tl.int64) * d + depth[:, None]
        )
        total = tl.zeros((BLOCK_N, BLOCK_F), tl.float32)
        for start in range(0, d, BLOCK_D):
            if WHOLE:
                a, b = tl.load(left + start), tl.load(right + start)
            else:
                inside = depth + start < d
                a, b = (
                    tl.load(left + start, inside[None, :], 0.0),
                    tl.load(right + start, inside[:, None], 0.0),
                )
            total = tl.dot(a, b, total, input_precision="ieee")
        total += tl.load(b_enc + features, features < n_features, 0.0)[None, :]
        total = tl.where((features < n_features)[None, :], total, float("-inf"))
        width = groups * GROUP
        there = (tokens < n)[:, None] & (features < width)[None, :]
        tl.store(pre + tokens[:, None].to(tl.int64) * width + features[None, :], total, there)
        best = tl.max(tl.reshape(total, (BLOCK_N, BLOCK_F // GROUP, GROUP)), axis=2)
        group = tl.program_id(0) // tiles * (BLOCK_F // GROUP) + tl.arange(0, BLOCK_F // GROUP)
        tl.store(
            greatest + tokens[:, None].to(tl.int64) * groups + group[None, :],
            best,
            (tokens < n)[:, None] & (group < groups)[None, :],
        )

    @triton.jit
    def _ranked(values, indices):
        """int64 keys that sort as (value, lower index first)."""
        bits = values.to(tl.int32, bitcast=True)
        ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
        return (ordered.to(tl.int64) << 32) | (0x7FFFFFFF - indices).to(tl.int64)

    @triton.jit
    def _index(keys):
        return 0x7FFFFFFF - (keys & 0x7FFFFFFF).to(tl.int32)

    @triton.jit
    def _select(
        pre,
        greatest,
        values,
        indices,
        k,
        groups,
        GROUP: tl.constexpr,
        KEPT: tl.constexpr,
        WIDTH: tl.constexpr,
    ):
        """One token: its KEPT ≥ k best groups, then the k best of their features."""
        token = tl.program_id(0).to(tl.int64)
        every = tl.arange(0, WIDTH)
        best = tl.load(greatest + token * groups + every, every < groups, float("-inf"))
        group = _index(tl.topk(_ranked(best, every), KEPT))
        feature = tl.reshape(group[:, None] * GROUP + tl.arange(0, GROUP)[None, :], (KEPT * GROUP,))
        found = tl.load(pre + token * (groups * GROUP) + feature, feature < groups * GROUP, float("-inf"))
        feature = _index(tl.topk(_ranked(found, feature), KEPT))
        place = tl.arange(0, KEPT)
        value = tl.load(pre + token * (groups * GROUP) + feature, place < k, 0.0)
        tl.store(values + token * k + place, tl.maximum(value, 0.0), place < k)
        tl.store(indices + token * k + place, feature.to(tl.int64), place < k)

    @triton.jit
    def _decode(values, indices, rows, out, k, d, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr):
        """One token, BLOCK_D columns; BLOCK_K rows in flight."""
        token = tl.program_id(0).to(tl.int64)
        column = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
        total = tl.zeros(
            (BLOCK_K, BLOCK_D), tl.float32
        )  # summed once, at the end: a sum across threads in the loop is a barrier
        for start in range(0, k, BLOCK_K):
            place = start + tl.arange(0, BLOCK_K)
            value = tl.load(values + token * k + place, place < k, 0.0)
            feature = tl.load(indices + token * k + place, place < k, 0)
            there = (value != 0)[:, None] & (column < d)[None, :]
            row = tl.load(rows + feature[:, None] * d + column[None, :], there, 0.0).to(tl.float32)
            total += value[:, None] * row
        tl.store(out + token * d + column, tl.sum(total, axis=0), column < d)

    @triton.jit
    def _code_gradient(values, indices, rows, slope, out, k, d, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr):
        """One token, BLOCK_K of its features."""
        token = tl.program_id(0).to(tl.int64)
        place = tl.program_id(1) * BLOCK_K + tl.arange(0, BLOCK_K)
        fired = tl.load(values + token * k + place, place < k, 0.0) != 0
        feature = tl.load(indices + token * k + place, place < k, 0)
        total = tl.zeros((BLOCK_K, BLOCK_D), tl.float32)
        for start in range(0, d, BLOCK_D):
            column = start + tl.arange(0, BLOCK_D)
            there = fired[:, None] & (column < d)[None, :]
            row = tl.load(rows + feature[:, None] * d + column[None, :], there, 0.0).to(tl.float32)
            total += row * tl.load(slope + token * d + column, column < d, 0.0)[None, :]
        tl.store(out + token * k + place, tl.sum(total, axis=1), place < k)

    @triton.jit
    def _row_sums(
        longest_first, bounds, tokens, entries, weights, x, out, totals, d,
        TOTAL: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
    ):  # fmt: skip
        """One feature, BLOCK_D columns; BLOCK_N of its tokens in flight."""
        feature = tl.load(longest_first + tl.program_id(0))
        begin, end = tl.load(bounds + feature), tl.load(bounds + feature + 1)
        column = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
        total = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
        mass = tl.zeros((BLOCK_N,), tl.float32)
        for start in range(begin, end, BLOCK_N):
            place = start + tl.arange(0, BLOCK_N)
            token = tl.load(tokens + place, place < end, 0)
            weight = tl.load(weights + tl.load(entries + place, place < end, 0), place < end, 0.0)
            there = (place < end)[:, None] & (column < d)[None, :]
            total += weight[:, None] * tl.load(x + token[:, None] * d + column[None, :], there, 0.0).to(
                tl.float32
            )
            mass += weight
        tl.store(out + feature * d + column, tl.sum(total, axis=0), column < d)
        if TOTAL and tl.program_id(1) == 0:
            tl.store(totals + feature, tl.sum(mass, axis=0))

    @triton.jit
    def _tangent(gradients, rows, d, BLOCK_D: tl.constexpr):
        """One row of gradients, less its part along a unit row."""
        column = tl.arange(0, BLOCK_D)
        place = tl.program_id(0).to(tl.int64) * d + column
        gradient, row = tl.load(gradients + place, column < d, 0.0), tl.load(rows + place, column < d, 0.0)
        tl.store(gradients + place, gradient - tl.sum(gradient * row, axis=0) * row, column < d)

    @triton.jit
    def _unit(x):
        return x / tl.maximum(tl.sqrt_rn(tl.sum(x * x, axis=0)), 1e-12)

    @triton.jit
    def _hold(rows, anchors, assigned, cosine, sine, d, ANCHORED: tl.constexpr, BLOCK_D: tl.constexpr):
        """One row: `into_cones` of lexiscope.anchors."""
        column = tl.arange(0, BLOCK_D)
        place = rows + tl.program_id(0).to(tl.int64) * d + column
        held = _unit(tl.load(place, column < d, 0.0))
        if ANCHORED:
            token = tl.load(assigned + tl.program_id(0))
            anchor = tl.load(anchors + token * d + column, (column < d) & (token >= 0), 0.0)
            along = tl.sum(held * anchor, axis=0)
            bent = cosine * anchor + sine * _unit(held - along * anchor)
            held = tl.where((token >= 0) & (along < cosine), bent, held)
        tl.store(place, held, column < d)
