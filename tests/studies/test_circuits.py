"""Attributions add up to what they explain, and slopes are those of finite differences."""

from itertools import combinations, permutations
from pathlib import Path

import numpy as np
import pytest
import torch

from lexiscope.checkpoint import load_checkpoint
from lexiscope.dictionary import Dictionary
from lexiscope.language_model import LanguageModel
from studies import STUDIES, StudyError, attribution
from studies.attribution import edges, integrated_gradients, metric, state_of, with_features
from studies.circuits import CircuitArguments, chance_level, correlation
from studies.motifs import bi_fans, motifs, relays, rewired, strong
from studies.tasks import Pair


@pytest.fixture(scope="module")
def dictionaries(runs: list[Path]) -> dict[int, Dictionary]:
    return {layer: load_checkpoint(runs[place]).dictionary for layer, place in ((0, 0), (1, 2))}


@pytest.fixture(scope="module")
def pair(model: LanguageModel) -> Pair:
    prompts = [
        [model.bos, *model.tokenise(text)[:6]] for text in ("the cat sat on a mat", "the dog sat on a mat")
    ]
    n = min(map(len, prompts))
    return Pair(*(torch.tensor(each[:n]) for each in prompts), answer=5, wrong=9)


def test_attributions_add_up_to_the_difference_that_all_features_make(
    model: LanguageModel, dictionaries: dict[int, Dictionary], pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attribution, "STEPS", 64)
    state = state_of(model, dictionaries, pair)
    gradient = integrated_gradients(model, 0, dictionaries[0], state)
    total = float((gradient * (state.clean[0] - state.corrupt[0])).sum())
    ends = [
        float(metric(model.logits(pair.clean[None], {0: lambda _, x=x: x[None]}), pair)[0])
        for x in (z @ dictionaries[0].W_dec + state.rest[0] for z in (state.clean[0], state.corrupt[0]))
    ]
    assert ends[0] == pytest.approx(state.difference, abs=1e-4)
    assert total == pytest.approx(ends[0] - ends[1], abs=0.02 * max(1, abs(ends[0] - ends[1])))


def test_an_edge_is_the_slope_of_finite_differences(
    model: LanguageModel, dictionaries: dict[int, Dictionary], pair: Pair
) -> None:
    state = state_of(model, dictionaries, pair)
    gradient = torch.randn(state.clean[1].shape)
    feature = int(state.clean[1].sum(0).argmax())
    found = edges(model, (0, 1), dictionaries, state, gradient, torch.tensor([feature]))[0]
    active = ((state.clean[1] != 0) | (state.corrupt[1] != 0))[1:, feature]

    def through(z: torch.Tensor) -> float:
        x = z @ dictionaries[0].W_dec + state.rest[0]
        with torch.no_grad():
            seen: list[torch.Tensor] = []
            patches = {0: lambda _: x[None], 1: lambda value: seen.append(value) or value}
            model.logits(pair.clean[None], patches)
        pre = (seen[0][0] @ dictionaries[1].W_enc[:, feature])[1:]
        return float((pre * gradient[1:, feature] * active).sum())

    change = state.clean[0] - state.corrupt[0]
    for early in change.abs().sum(0).argsort(descending=True)[:3].tolist():
        step = torch.zeros_like(change)
        step[:, early] = 1e-2 * change[:, early]
        slow = (through(state.clean[0] + step) - through(state.clean[0] - step)) / 2e-2
        assert float(found[early]) == pytest.approx(slow, rel=0.05, abs=1e-3)


def test_keeping_every_feature_changes_nothing(
    model: LanguageModel, dictionaries: dict[int, Dictionary], pair: Pair
) -> None:
    state = state_of(model, dictionaries, pair)
    every = {layer: torch.ones(each.d_sae, dtype=torch.bool) for layer, each in dictionaries.items()}
    assert with_features(model, dictionaries, state, every) == pytest.approx(state.difference, abs=1e-4)
    none = {layer: ~mask for layer, mask in every.items()}
    assert with_features(model, dictionaries, state, none) != pytest.approx(state.difference, abs=1e-4)


def test_attributions_that_say_nothing_stay_below_the_level_of_chance_in_19_of_20() -> None:
    draws = [(torch.randn(8), torch.randn(8)) for _ in range(100)]
    below = [correlation(a, b) < chance_level(a, b, seed=0) for a, b in draws]
    assert 88 <= sum(below) <= 100
    a = torch.arange(8.0)
    assert chance_level(a, a + 0.1 * torch.randn(8), seed=0) < 0.8 < correlation(a, 2 * a)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("studies.circuits.PERMUTATIONS", 4000)
        small = torch.randn(4), torch.randn(4)
        every = sorted(correlation(small[0][list(order)], small[1]) for order in permutations(range(4)))
        assert every[21] - 1e-5 <= chance_level(*small, seed=0) <= every[23] + 1e-5


def test_a_task_that_the_model_cannot_be_asked_is_refused(runs: list[Path], text_file: Path) -> None:
    ask = {"dictionaries": (runs[2],), "text": (str(text_file),), "tokens": 600, "length": 48}
    with pytest.raises(StudyError, match="single tokens"):
        STUDIES["circuits"].run(CircuitArguments(**ask))
    with pytest.raises(StudyError, match="one dictionary a layer"):
        STUDIES["circuits"].run(CircuitArguments(**ask | {"dictionaries": (runs[1], runs[2])}))


def test_bi_fans_are_counted_one_by_one() -> None:
    edges = torch.randint(-1, 2, (5, 6))
    count = coherent = 0
    for a, b in combinations(range(5), 2):
        for c, d in combinations(range(6), 2):
            product = int(edges[a, c] * edges[a, d] * edges[b, c] * edges[b, d])
            count += product != 0
            coherent += product > 0
    assert bi_fans(edges.float()) == (count, coherent)


def test_rewiring_keeps_the_degrees_of_every_feature() -> None:
    edges = strong(torch.randn(12, 10))
    drawn = rewired(edges, np.random.default_rng(0))
    assert not torch.equal(drawn, edges)
    for along in (0, 1):
        assert torch.equal(drawn.abs().sum(along), edges.abs().sum(along))
    assert torch.equal(drawn.sum(1), edges.sum(1))


def test_a_planted_block_is_a_motif_and_noise_is_none() -> None:
    block = 0.1 * torch.randn(16, 16)
    block[:6, :6] += 5
    block[6:12, 6:12] -= 5
    found = {each.name: each for each in motifs([block, block], seed=0)}
    assert found["bi-fans"].z > 3 and found["coherent bi-fans"].times > found["coherent bi-fans"].control
    noise = {each.name: each for each in motifs([torch.randn(16, 16)], seed=0)}
    assert abs(noise["bi-fans"].z) < 3 and "relays" not in noise


def test_relays_pass_through_the_middle() -> None:
    before, after = torch.tensor([[1.0, 1.0], [0.0, 1.0]]), torch.tensor([[0.0, -1.0], [1.0, 1.0]])
    slow = sum(
        float(abs(before[middle, early] * after[late, middle]))
        for middle in range(2)
        for early in range(2)
        for late in range(2)
    )
    assert relays([before, after]) == slow
