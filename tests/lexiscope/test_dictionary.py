"""The dictionary's sparse arithmetic equals the dense arithmetic it stands for."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lexiscope.dictionary import Dictionary
from lexiscope.errors import CheckpointError
from lexiscope.selection import Selection, Threshold, TopK
from lexiscope.sparse_code import SparseCode, gather_sum


def random_dictionary(
    d_in: int = 6, d_sae: int = 20, k: int = 4, *, dense: bool = False, seed: int = 0
) -> Dictionary:
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw)

    path = {"dense_in": normal(d_in, 2), "dense_out": normal(2, d_in)} if dense else {}
    return Dictionary(normal(d_in, d_sae), normal(d_sae), normal(d_sae, d_in), normal(d_in), TopK(k), **path)


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
    silent = Dictionary(d.W_enc * 0, torch.full((20,), -1.0), d.W_dec, d.b_dec, d.selection)
    assert torch.allclose(silent.reconstruct(torch.randn(3, 6)), d.b_dec.expand(3, 6))


@given(seed=st.integers(0, 1000), level=st.floats(-1, 2))
def test_a_threshold_keeps_every_positive_pre_activation_above_it(seed: int, level: float) -> None:
    d = replace(random_dictionary(seed=seed), selection=Threshold(torch.full((20,), level)))
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(seed + 1))
    pre = x @ d.W_enc + d.b_enc
    expected = torch.where((pre > level) & (pre > 0), pre, 0)
    assert torch.allclose(dense_code(d.encode(x), 20), expected, atol=1e-5)


@pytest.mark.parametrize("selection", [TopK(4), Threshold(torch.full((20,), 0.8))])
def test_runners_up_are_the_highest_that_were_not_selected(selection: Selection) -> None:
    d = replace(random_dictionary(), selection=selection)
    x = torch.randn(9, 6)
    code, runners_up = d.select(x, runners_up=3)
    assert torch.equal(dense_code(code, 20), dense_code(d.encode(x), 20))
    rest = d.pre_activations(x).masked_fill(dense_code(code, 20) > 0, 0).relu()
    assert torch.allclose(runners_up.values, rest.topk(3).values)


@pytest.mark.parametrize("selection", [TopK(4), Threshold(torch.full((20,), 0.8))])
def test_a_dictionary_of_one_feature_has_its_pre_activation_and_selection(selection: Selection) -> None:
    d = replace(random_dictionary(), selection=selection)
    x = torch.randn(9, 6)
    alone = d.of_feature(7).encode(x).values[:, 0]
    pre = d.pre_activations(x)[:, 7]
    level = 0.8 if selection.independent else 0.0
    assert torch.allclose(alone, torch.where(pre > level, pre, 0))


def test_a_transcoder_is_folded_on_both_sides() -> None:
    d = random_dictionary(dense=True)
    d = replace(d, W_dec=torch.randn(20, 5), b_dec=torch.randn(5), dense_out=torch.randn(2, 5))
    mean, target_mean = torch.randn(6), torch.randn(5)
    raw = d.fold(mean, 0.37, target_mean=target_mean, target_scale=2.5)
    x = torch.randn(11, 6) * 4
    expected = (d.reconstruct(x * 0.37 - mean) + target_mean) / 2.5
    assert raw.reconstruct(x).shape == (11, 5)
    assert torch.allclose(raw.reconstruct(x), expected, atol=1e-3)


def test_the_identity_is_of_every_number_and_of_no_layout_in_memory() -> None:
    d = replace(random_dictionary(d_sae=5000, dense=True), selection=Threshold(torch.zeros(5000)))
    same = replace(d, W_enc=d.W_enc.T.contiguous().T, W_dec=d.W_dec.double())
    assert same.identity == d.identity
    for name, tensor in d.tensors().items():
        changed = tensor.clone()
        changed.view(-1)[changed.numel() // 2 + 1] += 1
        other = d.selection.map(lambda _, changed=changed: changed) if name == "threshold" else changed
        assert replace(d, **{"selection" if name == "threshold" else name: other}).identity != d.identity
    swapped = d.W_dec[torch.tensor([*range(4997), 4998, 4997, 4999])]
    assert replace(d, W_dec=swapped).identity != d.identity
    assert replace(d, normalise="layer_norm").identity != d.identity
    assert random_dictionary(k=3).identity != random_dictionary(k=4).identity


def test_a_smaller_k_is_the_strongest_features_and_a_threshold_has_none() -> None:
    x, d = torch.randn(5, 6), random_dictionary(k=4)
    few = replace(d, selection=d.selection.at_most(2)).encode(x)
    assert torch.equal(few.values, d.encode(x).values[:, :2])
    assert d.selection.at_most(9) == TopK(4)
    with pytest.raises(CheckpointError, match="does not select the strongest"):
        Threshold(torch.zeros(20)).at_most(2)


@pytest.mark.parametrize("far", [False, True])
def test_a_rounded_dictionary_has_the_code_of_the_exact_one(far: bool) -> None:
    exact = random_dictionary(64, 500, 8)
    if far:  # activations lie far from 0, as they do beside massive dimensions
        exact = replace(exact, b_dec=1000 * torch.randn(64, generator=torch.Generator().manual_seed(1)))
        exact = replace(exact, b_enc=exact.b_enc - exact.b_dec @ exact.W_enc)
    x = exact.b_dec + torch.randn(2000, 64, generator=torch.Generator().manual_seed(2))
    expected, found = exact.pre_activations(x), exact.rounded().pre_activations(x)
    assert float((found - expected).square().mean().sqrt()) < 0.01 * float(expected.std())
    codes = [d.select(x, runners_up=3) for d in (exact, exact.rounded())]
    for one, other in zip(*codes, strict=True):  # the code, and the runners-up
        firing, rounded = dense_code(one, 500), dense_code(other, 500)
        assert float(((firing > 0) & (rounded > 0)).sum() / (firing > 0).sum()) > 0.93
        both = (firing > 0) & (rounded > 0)
        assert torch.allclose(firing[both], rounded[both], rtol=0.02, atol=0.05)
    threshold = replace(exact, selection=Threshold(torch.full((500,), 2.0)))
    firing, rounded = (
        dense_code(d.select(x, runners_up=2).code, 500) for d in (threshold, threshold.rounded())
    )
    assert float(((firing > 0) == (rounded > 0)).float().mean()) > 0.99
    assert exact.rounded().identity == exact.identity
