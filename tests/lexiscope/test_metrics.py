"""Each metric equals a slow, obvious computation of its definition in docs/method.md."""

import math

import pytest
import torch

from lexiscope import metrics
from lexiscope.errors import LexiscopeError
from tests.lexiscope.test_dictionary import random_dictionary


def test_streamed_reconstruction_figures_equal_those_of_the_whole_set() -> None:
    d = random_dictionary(dense=True)
    x = torch.randn(200, 6) * 3 + 5
    sums = metrics.ReconstructionSums(6)
    for part in x.split(33):
        code = d.encode(part)
        sums.add(part, d.parts(code, part), code)
    x_hat = d.reconstruct(x)
    fve = 1 - ((x - x_hat) ** 2).sum() / ((x - x.mean(0)) ** 2).sum()
    assert sums.fve == pytest.approx(fve.item(), abs=1e-4)
    assert sums.nmse == pytest.approx(1 - fve.item(), abs=1e-4)
    assert sums.l0 == pytest.approx((d.encode(x).values > 0).sum(1).float().mean().item())
    centred, dense = x - x.mean(0), d.dense_part(x)
    share = (centred * (dense - dense.mean(0))).sum() / (centred * (x_hat - x_hat.mean(0))).sum()
    assert sums.dense_share == pytest.approx(share.item(), abs=1e-3)


def test_fve_does_not_average_over_batches() -> None:
    """A batch of constant activations has no variance of its own; the definition takes both sums over the
    whole set.
    """
    d = random_dictionary()
    x = torch.cat([torch.zeros(10, 6), torch.full((10, 6), 4.0)])
    sums = metrics.ReconstructionSums(6)
    for part in x.split(10):
        code = d.encode(part)
        sums.add(part, d.parts(code, part), code)
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
    assert metrics.kl(logits, other).item() == pytest.approx(
        0.5 * math.log(1.5) + 0.5 * math.log(0.75), abs=1e-6
    )


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


def test_cross_entropy_and_kl_equal_a_loop() -> None:
    draw = torch.Generator().manual_seed(0)
    logits, other = torch.randn(5, 7, generator=draw) * 3, torch.randn(5, 7, generator=draw)
    following = [0, 6, 3, 3, 1]
    for row in range(5):
        p, q = ([math.exp(v) for v in table[row].tolist()] for table in (logits, other))
        p, q = [v / sum(p) for v in p], [v / sum(q) for v in q]
        ce = metrics.cross_entropy(logits, torch.tensor(following))[row].item()
        assert ce == pytest.approx(-math.log(p[following[row]]), abs=1e-5)
        assert metrics.kl(logits, other)[row].item() == pytest.approx(
            sum(a * math.log(a / b) for a, b in zip(p, q)), abs=1e-5
        )


def test_the_bootstrap_interval_holds_the_truth_about_nineteen_times_in_twenty() -> None:
    draw = torch.Generator().manual_seed(0)
    held = 0
    for seed in range(200):
        counts = torch.randint(20, 200, (80,), generator=draw).double()
        sums = counts * (0.3 + 0.2 * torch.randn(80, generator=draw))  # a passage's tokens share its luck
        low, high = metrics.bootstrap_mean(sums, counts, draws=400, seed=seed)
        held += low <= 0.3 <= high
    assert 0.88 <= held / 200 <= 0.99


def pairs(rate: float, *, seed: int, hardness: float = 1.0, n: int = 300) -> list[list[float]]:
    """[Σ ΔCE, tokens] a passage: what the passage costs is shared by every run, the rest is the run's own
    noise.
    """
    shared = torch.rand(n, generator=torch.Generator().manual_seed(0)) * hardness
    noise = 0.02 * torch.randn(n, generator=torch.Generator().manual_seed(seed))
    return [[(rate * (0.5 + s) + e) * 100, 100] for s, e in zip(shared.tolist(), noise.tolist())]


def test_a_paired_ratio_is_that_of_the_sums_and_narrower_than_an_unpaired_one() -> None:
    a, b = pairs(0.11, seed=1), pairs(0.10, seed=2)
    found = metrics.paired_ratio(a, b)
    assert found.value == pytest.approx(sum(d for d, _ in a) / sum(d for d, _ in b))
    assert found.low < found.value < found.high
    low, high = metrics.bootstrap_mean(*torch.tensor(a, dtype=torch.float64).T)
    assert (found.high - found.low) / found.value < (high - low) / ((high + low) / 2)
    same = metrics.paired_ratio(a, a)
    assert (same.value, same.low, same.high) == pytest.approx((1, 1, 1))


def test_runs_on_different_passages_are_not_paired() -> None:
    a = pairs(0.1, seed=1)
    for other in (a[:-1], [[d, 99] for d, _ in a], []):
        with pytest.raises(LexiscopeError, match="different passages"):
            metrics.paired_ratio(a, other)


def slow_stability(a: metrics.NamedRun, b: metrics.NamedRun) -> tuple[float, float, int]:
    live_a, live_b = ([i for i in range(len(r.names)) if r.live[i] and r.names[i] >= 0] for r in (a, b))
    all_b = [i for i in range(len(b.names)) if b.live[i]]
    tokens = sorted({a.names[i].item() for i in live_a})
    recurs = shared = 0
    for token in tokens:
        feature = min((i for i in live_a if a.names[i] == token), key=lambda i: (-a.firings[i].item(), i))
        cosines = [float(a.directions[feature] @ b.directions[j]) for j in all_b]
        recurs += b.names[all_b[cosines.index(max(cosines))]].item() == token
        shared += any(b.names[j] == token for j in live_b)
    return recurs / len(tokens), shared / len(tokens), len(tokens)


def random_run(seed: int, base: torch.Tensor) -> metrics.NamedRun:
    draw = torch.Generator().manual_seed(seed)
    order = torch.randperm(40, generator=draw)
    directions = torch.nn.functional.normalize(base[order] + 0.3 * torch.randn(40, 8, generator=draw), dim=-1)
    names = torch.where(
        torch.rand(40, generator=draw) < 0.8, order // 2, torch.randint(-1, 20, (40,), generator=draw)
    )
    return metrics.NamedRun(
        names, directions, torch.randint(0, 9, (40,), generator=draw), torch.rand(40, generator=draw) < 0.8
    )


def test_name_stability_equals_a_loop_over_tokens() -> None:
    base = torch.nn.functional.normalize(
        torch.randn(40, 8, generator=torch.Generator().manual_seed(9)), dim=-1
    )
    a, b = random_run(1, base), random_run(2, base)
    assert tuple(metrics.name_stability(a, b)) == pytest.approx(slow_stability(a, b))
    everywhere = a._replace(names=torch.arange(40), live=torch.ones(40, dtype=torch.bool))
    assert tuple(metrics.name_stability(everywhere, everywhere)) == (1, 1, 40)
    dead = a._replace(live=torch.zeros(40, dtype=torch.bool))
    assert tuple(metrics.name_stability(dead, b)) == (0, 0, 0)
