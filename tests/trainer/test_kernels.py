"""Kernels and plain PyTorch give the same numbers, each held here to a slow and obvious form.

In an ordinary process the claims are checked on the plain path, and on the kernels where there is a GPU.
Where Triton is installed one test runs this file again under Triton's interpreter, where the same claims meet
the kernels on the CPU. (The interpreter multiplies bfloat16 by its bits, so low precision is float16 there.)
Another compiles the kernels for an H200, which needs no GPU.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

from lexiscope.rounded import Scratch
from lexiscope.sparse_code import SparseCode
from trainer import kernels

INTERPRETED = kernels.has_kernels(torch.empty(0))
GPU = torch.cuda.is_available() and not INTERPRETED
on_devices = pytest.mark.parametrize("device", ["cpu", "cuda"] if GPU else ["cpu"])
few = settings(
    max_examples=8 if INTERPRETED else 40,
    phases=[Phase.generate]
    if INTERPRETED
    else tuple(Phase),  # shrinking a failure takes the interpreter minutes
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=True,
)
shapes = st.tuples(st.integers(1, 3), st.integers(1, 70), st.integers(1, 20)).flatmap(
    lambda shape: st.tuples(
        *(st.just(size) for size in shape), st.integers(1, min(5, shape[1])), st.integers(0, 2**20)
    )
)
"""(n, d_sae, d, k, seed)"""


def draw(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def whole(shape: tuple[int, ...], seed: int, device: str) -> Tensor:
    """Small whole numbers: products are exact in any order of summing, and ties are many."""
    return torch.randint(-3, 4, shape, generator=draw(seed)).float().to(device)


def normal(shape: tuple[int, ...], seed: int, device: str) -> Tensor:
    return torch.randn(shape, generator=draw(seed)).to(device)


def some_code(n: int, d_sae: int, k: int, seed: int, device: str) -> SparseCode:
    """Distinct features in each row; about a third of the values are 0, as where fewer than k features are
    active.
    """
    indices = torch.stack([torch.randperm(d_sae, generator=draw(seed + row))[:k] for row in range(n)])
    values = (torch.rand(n, k, generator=draw(seed)) - 0.3).relu().sort(descending=True).values
    return SparseCode(values.to(device), indices.to(device))


def dense(code: SparseCode, weights: Tensor, d_sae: int) -> Tensor:
    """[n, d_sae] the weights [n, k] at the features that are active."""
    return torch.zeros(len(weights), d_sae, device=weights.device).scatter(
        1, code.indices, weights * (code.values > 0)
    )


def assert_best(code: SparseCode, pre: Tensor, *, lowest_first: bool) -> None:
    """The code holds the best of pre-activations [n, d_sae]: exactly, by sorting each row in Python."""
    k = code.indices.shape[1]
    for values, indices, row in zip(code.values.tolist(), code.indices.tolist(), pre.tolist(), strict=True):
        best = sorted(range(len(row)), key=lambda i: (-row[i], i))[:k]
        assert values == [max(row[i], 0.0) for i in best]
        assert [row[i] for i in indices] == [row[i] for i in best]
        assert len(set(indices)) == k
        assert indices == best or not lowest_first


# --- the code ---


@on_devices
@given(shapes)
@few
def test_the_code_is_exactly_the_k_largest_and_ties_go_to_the_lower_index(
    device: str, shape: tuple[int, ...]
) -> None:
    n, d_sae, d, k, seed = shape
    y, encoder, bias = (
        whole((n, d), seed, device),
        whole((d_sae, d), seed + 1, device),
        whole((d_sae,), seed + 2, device),
    )
    code = kernels.encode_top_k(y, encoder, bias, k)
    assert_best(code, y @ encoder.T + bias, lowest_first=kernels.has_kernels(y))


@on_devices
@given(shapes)
@few
def test_a_signed_code_is_exactly_the_k_of_largest_magnitude(device: str, shape: tuple[int, ...]) -> None:
    n, d_sae, d, k, seed = shape
    y, encoder = whole((n, d), seed, device), whole((d_sae, d), seed + 1, device)
    bias = whole((d_sae,), seed + 2, device)
    code, pre = kernels.encode_top_k(y, encoder, bias, k, signed=True), y @ encoder.T + bias
    assert torch.equal(code.values.abs(), pre.abs().sort(descending=True).values[:, :k])
    chosen = code.values != 0
    assert torch.equal(code.values[chosen], pre.gather(1, code.indices)[chosen])
    assert all(
        len(set(row[kept].tolist())) == kept.sum() for row, kept in zip(code.indices, chosen, strict=True)
    )
    rows = whole((d_sae, d), seed + 3, device)
    assert torch.equal(
        kernels.decode(code, rows), torch.zeros_like(pre).scatter(1, code.indices, code.values) @ rows
    )


@on_devices
@pytest.mark.parametrize(("d_sae", "k"), [(33, 1), (64, 3), (300, 8), (7, 7)])
def test_widths_that_are_no_multiple_of_a_tile_are_padded_invisibly(device: str, d_sae: int, k: int) -> None:
    y, encoder, bias = whole((1, 70), 0, device), whole((d_sae, 70), 1, device), whole((d_sae,), 2, device)
    assert_best(
        kernels.encode_top_k(y, encoder, bias, k), y @ encoder.T + bias, lowest_first=kernels.has_kernels(y)
    )


@on_devices
def test_a_token_without_positive_pre_activations_has_a_code_of_zeros(device: str) -> None:
    y, encoder = torch.ones(2, 16, device=device), -torch.ones(50, 16, device=device)
    code = kernels.encode_top_k(y, encoder, torch.zeros(50, device=device), 4)
    assert code.values.eq(0).all()
    assert all(len(set(row)) == 4 and max(row) < 50 for row in code.indices.tolist())


@on_devices
def test_all_the_best_features_may_be_in_one_group(device: str) -> None:
    bias = torch.arange(200.0, device=device)
    code = kernels.encode_top_k(
        torch.zeros(1, 16, device=device), torch.zeros(200, 16, device=device), bias, 8
    )
    assert code.indices.tolist() == [list(range(199, 191, -1))]


@on_devices
def test_low_precision_products_are_those_of_the_rounded_inputs(device: str) -> None:
    low = torch.bfloat16 if device == "cuda" else torch.float16
    y, encoder, bias = (
        normal((2, 48), 0, device).to(low),
        normal((90, 48), 1, device).to(low),
        normal((90,), 2, device),
    )
    code = kernels.encode_top_k(y, encoder, bias, 5)
    expected = (y.float() @ encoder.float().T + bias).topk(5).values.relu()
    assert code.values.dtype == torch.float32
    assert torch.allclose(code.values, expected, atol=1e-4 if kernels.has_kernels(y) else 0.05)


@pytest.mark.skipif(not (INTERPRETED or GPU), reason="needs kernels")
def test_a_long_batch_passes_in_parts_of_several_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    device = "cuda" if GPU else "cpu"
    y, encoder, bias = whole((19, 24), 0, device), whole((70, 24), 1, device), whole((70,), 2, device)
    monkeypatch.setattr(kernels, "SCRATCH", 10 * 96 * 4)
    code = kernels._encode_top_k(y, encoder, bias, 2, kernels.Tile(16, 32, 16, 4, 2))
    assert_best(code, y @ encoder.T + bias, lowest_first=True)


@on_devices
def test_the_plain_path_works_in_the_buffer_it_is_given(device: str) -> None:
    y, encoder, bias = whole((2, 8), 0, device), whole((40, 8), 1, device), whole((40,), 2, device)
    scratch = Scratch(1)  # fewer tokens than there are
    interpreted = kernels.has_kernels(y) and device == "cpu"  # NumPy has no bf16
    for dtype in (torch.float32,) if interpreted else (torch.float32, torch.bfloat16):  # exact in both
        code = kernels.encode_top_k(y, encoder, bias, 3, dtype=dtype, scratch=scratch)
        assert_best(code, y @ encoder.T + bias, lowest_first=kernels.has_kernels(y))


@pytest.mark.skipif(INTERPRETED, reason="NumPy has no bf16")
def test_the_bias_is_added_before_the_sum_is_rounded() -> None:
    y, encoder = torch.tensor([[1.0, -1.0]]), torch.tensor([[256.0, 0.0], [0.0, 1.0]])
    bias = torch.tensor([-255.001, 0.0])  # 0.999 by itself, 1 where both are rounded first
    code = kernels.encode_top_k(y, encoder, bias, 1, dtype=torch.bfloat16)
    assert code.values.item() == pytest.approx(0.999, abs=2**-9)


# --- the gradients ---


@pytest.mark.parametrize("held", [7, 30, 512])
def test_gradients_do_not_depend_on_how_many_rows_are_held_at_once(
    held: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "HELD", held)
    code, rows, x = some_code(200, 90, 5, 0, "cpu"), normal((90, 12), 1, "cpu"), normal((200, 12), 2, "cpu")
    expected = dense(code, code.values, 90).T @ x
    out, total = torch.full((90, 12), 9.0), torch.full((90,), 9.0)
    kernels.row_gradients(kernels.firings(code, 90), code.values, x, out, total=total)
    assert torch.allclose(out, expected, atol=1e-4)
    assert torch.allclose(total, dense(code, code.values, 90).sum(0), atol=1e-4)
    rows /= rows.norm(dim=-1, keepdim=True)
    kernels.row_gradients(kernels.firings(code, 90), code.values, x, out, tangent_to=rows)
    assert torch.allclose(out, expected - (expected * rows).sum(-1, keepdim=True) * rows, atol=1e-4)
    longer = 3 * rows
    kernels.hold_rows(longer)
    assert torch.allclose(longer, rows, atol=1e-6)


def test_a_code_without_firings_has_no_gradients() -> None:
    code = SparseCode(torch.zeros(4, 2), torch.zeros(4, 2, dtype=torch.long))
    rows, x, out = normal((9, 6), 0, "cpu"), normal((4, 6), 1, "cpu"), torch.full((9, 6), 9.0)
    assert kernels.code_gradient(code, rows, x).eq(0).all()
    kernels.row_gradients(kernels.firings(code, 9), code.values, x, out)
    assert out.eq(0).all()


@on_devices
@given(shapes)
@few
def test_decoding_and_both_gradients_are_those_of_the_dense_code(device: str, shape: tuple[int, ...]) -> None:
    n, d_sae, d, k, seed = shape
    code, rows, x = (
        some_code(n, d_sae, k, seed, device),
        normal((d_sae, d), seed, device),
        normal((n, d), seed + 1, device),
    )
    assert torch.allclose(kernels.decode(code, rows), dense(code, code.values, d_sae) @ rows, atol=1e-5)
    back = kernels.code_gradient(code, rows, x)
    assert torch.allclose(back, (x @ rows.T).gather(1, code.indices) * (code.values > 0), atol=1e-5)
    order, out, total = (
        kernels.firings(code, d_sae),
        torch.full((d_sae, d), 9.0, device=device),
        torch.full((d_sae,), 9.0, device=device),
    )
    kernels.row_gradients(order, back, x, out, total=total)
    spread = dense(code, back, d_sae)
    assert torch.allclose(out, spread.T @ x, atol=1e-4)
    assert torch.allclose(total, spread.sum(0), atol=1e-4)
    assert order.fired.tolist() == dense(code, code.values, d_sae).any(0).tolist()


@on_devices
def test_a_code_may_be_the_first_columns_of_a_wider_one(device: str) -> None:
    """BatchTopK encodes more columns than it keeps."""
    wide = some_code(5, 40, 9, 0, device)
    rows, slope = normal((40, 20), 1, device), normal((5, 20), 2, device)
    cut = SparseCode(wide.values[:, :4], wide.indices[:, :4])
    copied = SparseCode(cut.values.clone(), cut.indices.clone())
    assert torch.equal(kernels.decode(cut, rows), kernels.decode(copied, rows))
    assert torch.equal(kernels.code_gradient(cut, rows, slope), kernels.code_gradient(copied, rows, slope))
    sums = [torch.empty(40, 20, device=device) for _ in range(2)]
    for code, out in zip((cut, copied), sums, strict=True):
        kernels.row_gradients(kernels.firings(code, 40), code.values, slope, out)
    assert torch.equal(*sums)


@on_devices
@pytest.mark.parametrize("d", [40, 300])
def test_a_feature_may_fire_always_and_others_never(device: str, d: int) -> None:
    indices = torch.stack([torch.tensor([3, 5 + token % 2]) for token in range(37)]).to(device)
    code = SparseCode(torch.ones(37, 2, device=device), indices)
    weights, x, out = (
        normal((37, 2), 0, device),
        normal((37, d), 1, device),
        torch.full((9, d), 9.0, device=device),
    )
    kernels.row_gradients(kernels.firings(code, 9), weights, x, out)
    assert torch.allclose(out, dense(code, weights, 9).T @ x, atol=1e-4)
    assert out[[0, 1, 2, 4, 7, 8]].eq(0).all()


@on_devices
def test_a_code_that_never_fires_has_no_gradient(device: str) -> None:
    code = SparseCode(torch.zeros(2, 3, device=device), torch.arange(6, device=device).reshape(2, 3))
    out, x = torch.full((8, 5), 9.0, device=device), normal((2, 5), 0, device)
    order = kernels.firings(code, 8)
    kernels.row_gradients(order, code.values, x, out)
    assert not order.fired.any()
    assert out.eq(0).all()
    assert kernels.decode(code, normal((8, 5), 1, device)).eq(0).all()


@on_devices
def test_no_gradient_is_left_along_the_rows_it_is_held_tangent_to(device: str) -> None:
    code, x, rows = (
        some_code(6, 20, 4, 0, device),
        normal((6, 10), 1, device),
        F.normalize(normal((20, 10), 2, device), dim=-1),
    )
    out = torch.empty(20, 10, device=device)
    kernels.row_gradients(kernels.firings(code, 20), code.values, x, out, tangent_to=rows)
    free = dense(code, code.values, 20).T @ x
    assert torch.allclose(out, free - (free * rows).sum(-1, keepdim=True) * rows, atol=1e-5)


@on_devices
def test_sums_repeat_bit_for_bit(device: str) -> None:
    code, x = some_code(8, 11, 4, 0, device), normal((8, 33), 1, device)
    first, again = torch.empty(2, 11, 33, device=device)
    for out in (first, again):
        kernels.row_gradients(kernels.firings(code, 11), code.values, x, out)
    assert torch.equal(first, again)


# --- the rows ---


@on_devices
@pytest.mark.parametrize("d", [1, 40])
def test_rows_are_unit_and_the_assigned_are_in_their_cones(device: str, d: int) -> None:
    rows, anchors = normal((23, d), 0, device), F.normalize(normal((7, d), 1, device), dim=-1)
    assigned = torch.randint(-1, 7, (23,), generator=draw(2)).to(device)
    held = rows.clone()
    kernels.hold_rows(held, anchors, assigned, 0.8)
    for row, token, result in zip(rows, assigned.tolist(), held, strict=True):
        unit = row / row.norm()
        if token >= 0 and unit @ anchors[token] < 0.8:
            across = unit - (unit @ anchors[token]) * anchors[token]
            across = across / across.norm() if across.norm() > 1e-6 else 0 * across
            unit = 0.8 * anchors[token] + 0.6 * across
        assert torch.allclose(result, unit, atol=1e-5)


@on_devices
def test_without_anchors_rows_are_only_made_unit(device: str) -> None:
    rows = normal((9, 12), 0, device)
    held = rows.clone()
    kernels.hold_rows(held)
    assert torch.allclose(held, F.normalize(rows, dim=-1), atol=1e-6)


# --- the kernels, without a GPU and with one ---


@pytest.mark.slow
@pytest.mark.skipif(kernels.triton is None or INTERPRETED, reason="needs Triton, not interpreted")
def test_the_kernels_keep_these_claims_in_the_interpreter() -> None:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", __file__]
    done = subprocess.run(
        command, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:]


@pytest.mark.skipif(kernels.triton is None or INTERPRETED, reason="needs Triton, not interpreted")
def test_the_product_is_compiled_to_hopper_s_matrix_instructions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    tile, kernel = kernels.ENCODE, kernels._encode
    constants = {
        "GROUP": kernels.GROUP,
        "BLOCK_N": tile.tokens,
        "BLOCK_F": tile.features,
        "BLOCK_D": tile.depth,
        "WHOLE": True,
    }
    types = dict.fromkeys(("y", "encoder"), "*bf16") | dict.fromkeys(("b_enc", "pre", "greatest"), "*fp32")
    signature = {
        name: "constexpr" if name in constants else types.get(name, "i32") for name in kernel.arg_names
    }
    aligned = {
        (place,): [["tt.divisibility", 16]]
        for place, name in enumerate(kernel.arg_names)
        if name in types or name == "d"
    }
    options = {"num_warps": tile.warps, "num_stages": tile.stages}
    compiled = triton.compile(
        ASTSource(kernel, signature, constants, aligned), target=GPUTarget("cuda", 90, 32), options=options
    )
    assert "wgmma.mma_async" in compiled.asm["ptx"]
    assert 2 * compiled.metadata.shared <= 227 * 1024  # two tiles share a multiprocessor


@pytest.mark.skipif(not GPU, reason="needs a GPU")
class TestOnAGpu:
    """The shape of GPT-2: n 1,024, d_sae 50,257, d 768, k 32, in bfloat16."""

    def test_the_code_is_that_of_the_plain_path(self) -> None:
        y, encoder = (
            normal((1024, 768), 0, "cuda").bfloat16(),
            (normal((50257, 768), 1, "cuda") / 28).bfloat16(),
        )
        bias = normal((50257,), 2, "cuda") / 10
        code, pre = kernels.encode_top_k(y, encoder, bias, 32), y.float() @ encoder.float().T + bias
        assert torch.allclose(code.values, pre.topk(32).values, atol=1e-4)
        assert torch.allclose(code.values, pre.gather(1, code.indices), atol=1e-4)
        again = kernels.encode_top_k(y, encoder, bias, 32)
        assert torch.equal(code.values, again.values)
        assert torch.equal(code.indices, again.indices)

    def test_decoding_and_gradients_are_those_of_the_plain_path(self) -> None:
        code, x, rows = (
            some_code(1024, 50257, 32, 0, "cuda"),
            normal((1024, 768), 1, "cuda"),
            normal((50257, 768), 2, "cuda"),
        )
        spread = dense(code, code.values, 50257)
        assert torch.allclose(kernels.decode(code, rows), spread @ rows, atol=1e-3)
        out = torch.empty_like(rows)
        kernels.row_gradients(kernels.firings(code, 50257), code.values, x, out)
        assert torch.allclose(out, spread.T @ x, atol=1e-3)

    def test_the_host_never_waits(self) -> None:
        y, encoder, bias = (
            normal((256, 64), 0, "cuda"),
            normal((500, 64), 1, "cuda"),
            normal((500,), 2, "cuda"),
        )
        out, total, rows = torch.empty_like(encoder), torch.empty_like(bias), F.normalize(encoder, dim=-1)
        torch.cuda.set_sync_debug_mode("error")
        try:
            code = kernels.encode_top_k(y, encoder, bias, 8)
            slope = kernels.decode(code, rows) - y
            back = kernels.code_gradient(code, rows, slope)
            order = kernels.firings(code, 500)
            kernels.row_gradients(order, back, y, out, total=total, tangent_to=rows)
            kernels.hold_rows(rows)
        finally:
            torch.cuda.set_sync_debug_mode("default")
