"""The dictionary's sparse arithmetic equals the dense arithmetic it stands for."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lexiscope.dictionary import Dictionary, SparseCode, firing_order, gather_sum


def random_dictionary(
    d_in: int = 6, d_sae: int = 20, k: int = 4, *, dense: bool = False, seed: int = 0
) -> Dictionary:
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw)

    path = {"dense_in": normal(d_in, 2), "dense_out": normal(2, d_in)} if dense else {}
    return Dictionary(normal(d_in, d_sae), normal(d_sae), normal(d_sae, d_in), normal(d_in), k, **path)


def dense_code(code: SparseCode, d_sae: int) -> torch.Tensor:
    return torch.zeros(len(code.values), d_sae).scatter_add_(1, code.indices, code.values)


@given(seed=st.integers(0, 1000), k=st.integers(1, 20))
def test_the_code_holds_the_k_largest_and_nothing_negative(seed: int, k: int) -> None:
    d = random_dictionary(k=k, seed=seed)
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(seed + 1))
    code = d.encode(x)
    pre = x @ d.W_enc + d.b_enc
    for row in range(5):
        expected = sorted((max(v, 0.0) for v in pre[row].tolist()), reverse=True)[:k]
        assert code.values[row].tolist() == pytest.approx(expected, abs=1e-5)


@given(seed=st.integers(0, 1000))
def test_decoding_by_gather_equals_the_dense_product(seed: int) -> None:
    d = random_dictionary(dense=True, seed=seed)
    x = torch.randn(7, 6, generator=torch.Generator().manual_seed(seed))
    code = d.encode(x)
    expected = dense_code(code, 20) @ d.W_dec + x @ d.dense_in @ d.dense_out + d.b_dec
    assert torch.allclose(d.decode(code, x), expected, atol=1e-4)
    assert torch.allclose(gather_sum(code, d.W_dec), dense_code(code, 20) @ d.W_dec, atol=1e-4)


@given(seed=st.integers(0, 1000))
def test_sums_over_each_features_tokens_equal_the_transposed_product(seed: int) -> None:
    d = random_dictionary(seed=seed)
    x = torch.randn(9, 6, generator=torch.Generator().manual_seed(seed))
    code = d.encode(x)
    order = firing_order(code)
    expected = dense_code(code, 20).T @ x
    found = torch.zeros(20, 6).index_copy_(0, order.features, order.sum(code.values, x))
    assert torch.allclose(found, expected, atol=1e-4)
    assert order.features.tolist() == code.indices[code.values > 0].unique().tolist()


@pytest.mark.parametrize("dense", [False, True])
def test_folding_centring_and_scale_changes_no_code_and_no_reconstruction(dense: bool) -> None:
    scaled = random_dictionary(dense=dense)
    mean, scale = torch.randn(6), 0.37
    x = torch.randn(11, 6) * 4
    y = x * scale - mean
    raw = scaled.fold(mean, scale)
    before, after = scaled.encode(y), raw.encode(x)
    assert torch.equal(before.indices, after.indices)
    assert torch.allclose(before.values, after.values, atol=1e-4)
    assert torch.allclose(raw.reconstruct(x), (scaled.reconstruct(y) + mean) / scale, atol=1e-3)


def test_an_empty_code_decodes_to_the_bias() -> None:
    d = random_dictionary()
    silent = Dictionary(d.W_enc * 0, torch.full((20,), -1.0), d.W_dec, d.b_dec, d.k)
    assert torch.allclose(silent.reconstruct(torch.randn(3, 6)), d.b_dec.expand(3, 6))
