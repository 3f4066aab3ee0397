"""Each metric equals a slow, obvious computation of METHOD.md §5's definition."""

import math

import pytest
import torch

from lexiscope import metrics
from tests.lexiscope.test_dictionary import random_dictionary


def test_streamed_reconstruction_figures_equal_those_of_the_whole_set() -> None:
    d = random_dictionary(dense=True)
    x = torch.randn(200, 6) * 3 + 5
    sums = metrics.ReconstructionSums(6)
    for part in x.split(33):
        code = d.encode(part)
        sums.add(part, d.decode_sparse(code), d.dense_part(part), d.b_dec, code)
    x_hat = d.reconstruct(x)
    fve = 1 - ((x - x_hat) ** 2).sum() / ((x - x.mean(0)) ** 2).sum()
    assert sums.fve == pytest.approx(fve.item(), abs=1e-4)
    assert sums.nmse == pytest.approx(1 - fve.item(), abs=1e-4)
    assert sums.l0 == pytest.approx((d.encode(x).values > 0).sum(1).float().mean().item())
    centred, dense = x - x.mean(0), d.dense_part(x)
    share = (centred * (dense - dense.mean(0))).sum() / (centred * (x_hat - x_hat.mean(0))).sum()
    assert sums.dense_share == pytest.approx(share.item(), abs=1e-3)


def test_fve_does_not_average_over_batches() -> None:
    """A batch of constant activations has no variance of its own; the definition takes both sums over the whole set."""
    d = random_dictionary()
    x = torch.cat([torch.zeros(10, 6), torch.full((10, 6), 4.0)])
    sums = metrics.ReconstructionSums(6)
    for part in x.split(10):
        code = d.encode(part)
        sums.add(part, d.decode_sparse(code), d.dense_part(part), d.b_dec, code)
    assert math.isfinite(sums.fve)


def test_a_feature_is_live_from_one_firing_in_a_hundred_thousand() -> None:
    sums = metrics.FiringSums(3)
    sums.n, sums.firings = 1_000_000, torch.tensor([0, 9, 10])
    assert sums.live.tolist() == [False, False, True]


def test_alignment_is_weighted_by_firings_and_by_energy() -> None:
    cosines = torch.tensor([0.9, 0.85, 0.2, 0.8])
    live = torch.tensor([True, False, True, True])
    firings, energy = torch.tensor([10, 0, 30, 60]), torch.tensor([1.0, 0.0, 3.0, 0.0])
    found = metrics.alignment(cosines, live, firings, energy)
    assert found.all == pytest.approx(3 / 4)
    assert found.live == pytest.approx(2 / 3)
    assert found.firing == pytest.approx(70 / 100)
    assert found.energy == pytest.approx(1 / 4)


def test_coverage_counts_only_tokens_that_occur() -> None:
    names = torch.tensor([0, 0, 1, 3])
    aligned_live = torch.tensor([True, True, False, True])
    assert metrics.coverage(names, aligned_live, torch.tensor([5, 1, 2, 0])) == pytest.approx(1 / 3)


def test_cross_entropy_and_kl_are_in_nats() -> None:
    logits = torch.tensor([[math.log(0.5), math.log(0.25), math.log(0.25)]])
    other = torch.zeros(1, 3)
    assert metrics.cross_entropy(logits, torch.tensor([1])).item() == pytest.approx(math.log(4))
    assert metrics.kl(logits, other).item() == pytest.approx(0.5 * math.log(1.5) + 0.5 * math.log(0.75), abs=1e-6)


def test_ce_recovered_is_one_for_perfect_and_zero_for_ablation() -> None:
    assert metrics.ce_recovered(2.0, 2.0, 10.0) == 1
    assert metrics.ce_recovered(2.0, 10.0, 10.0) == 0
    assert metrics.ce_recovered(2.0, 2.0, 2.0) == 0


def test_the_bootstrap_interval_holds_the_mean_and_narrows_with_passages() -> None:
    draw = torch.Generator().manual_seed(0)
    sums, counts = torch.randn(400, generator=draw) + 50, torch.full((400,), 100.0)
    low, high = metrics.bootstrap_mean(sums, counts)
    assert low < sums.sum().item() / 40_000 < high
    few_low, few_high = metrics.bootstrap_mean(sums[:20], counts[:20])
    assert few_high - few_low > high - low
