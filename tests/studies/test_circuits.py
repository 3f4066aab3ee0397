"""Attributions add up to what they explain, slopes are those of finite differences, and a circuit does what
exchanging its features one by one does.
"""

from itertools import combinations, permutations
from pathlib import Path

import numpy as np
import pytest
import torch

from lexiscope.checkpoint import load_checkpoint
from lexiscope.dictionary import Dictionary
from lexiscope.language_model import LanguageModel
from lexiscope.records import FeatureCell
from studies import STUDIES, StudyError, attribution, circuits, tasks
from studies.attribution import PairState, edges, integrated_gradients, metric, state_of, with_features
from studies.circuits import CircuitArguments, _others, _verify, chance_level, correlation
from studies.motifs import bi_fans, motifs, relays, rewired, strong
from studies.tasks import Pair, pairs_of


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


@pytest.fixture
def words(monkeypatch: pytest.MonkeyPatch) -> None:
    """The task in words that are tokens of the tiny model, which is asked whatever it answers."""
    real, asked = tasks._pair, {" was": " ran", " were": " sat"}

    def pair(model: LanguageModel, clean: str, corrupt: str, answer: str, wrong: str) -> Pair | None:
        return real(model, clean, corrupt, asked[answer], asked[wrong])

    monkeypatch.setattr(tasks, "_pair", pair)
    monkeypatch.setattr(tasks, "NOUNS", ("cat:dog", "mat:rain", "stone:night", "one:houses"))
    monkeypatch.setattr(tasks, "PLURALS", ("one night the {}", "and then the {}"))
    monkeypatch.setattr(circuits, "DONE", 0.0)
    monkeypatch.setattr(circuits, "CARRIED", float("-inf"))


@pytest.fixture
def states(model: LanguageModel, dictionaries: dict[int, Dictionary], words: None) -> list[PairState]:
    return [state_of(model, dictionaries, each) for each in pairs_of(model, "agreement", 8, seed=0)]


def exchanged(
    model: LanguageModel, dictionaries: dict[int, Dictionary], state: PairState, features: dict[int, set[int]]
) -> float:
    """The logit difference where each of some features writes what it writes in the corrupt prompt."""

    def patch(layer: int, x: torch.Tensor) -> torch.Tensor:
        dictionary, out = dictionaries[layer], x.clone()
        code = dictionary.encode(x[0], state.pair.clean)
        for position, corrupt in list(enumerate(state.corrupt[layer].tolist()))[1:]:
            own = dict(zip(code.indices[position].tolist(), code.values[position].tolist()))
            for feature in features.get(layer, ()):
                if change := corrupt[feature] - own.get(feature, 0.0):
                    out[0, position] += change * dictionary.W_dec[feature]
        return out

    patches = {layer: lambda x, layer=layer: patch(layer, x) for layer in dictionaries}
    with torch.inference_mode():
        return float(metric(model.logits(state.pair.clean[None], patches), state.pair)[0])


def test_verification_equals_exchanging_one_feature_after_another(
    model: LanguageModel, dictionaries: dict[int, Dictionary], states: list[PairState]
) -> None:
    every = {layer: torch.ones(each.d_sae, dtype=torch.bool) for layer, each in dictionaries.items()}
    scores = {layer: torch.randn(each.d_sae) for layer, each in dictionaries.items()}
    chosen = {
        layer: sum((state.clean[layer] - state.corrupt[layer]).abs().sum(0) for state in states)
        .topk(4)
        .indices
        for layer in dictionaries
    }
    claimed, found = _verify(model, dictionaries, states[:3], scores, chosen, every)
    each = [(layer, feature) for layer in dictionaries for feature in chosen[layer].tolist()]
    assert claimed.tolist() == [float(scores[layer][feature]) for layer, feature in each]
    expected = [
        sum(
            state.difference - exchanged(model, dictionaries, state, {layer: {feature}})
            for state in states[:3]
        )
        / 3
        for layer, feature in each
    ]
    assert found.tolist() == pytest.approx(expected, abs=1e-4)
    assert all(max(map(abs, expected[at : at + 4])) > 1e-2 for at in (0, 4)), "at either layer"
    assert all(mask.all() for mask in every.values()), "left as it was"


def test_the_control_is_of_other_features_that_differ_between_the_prompts(states: list[PairState]) -> None:
    for layer in (0, 1):
        differ = {
            feature
            for state in states
            for feature in range(state.clean[layer].shape[1])
            if state.clean[layer][:, feature].tolist() != state.corrupt[layer][:, feature].tolist()
        }
        top = torch.tensor(sorted(differ)[:3])
        drawn = _others(states, layer, top, 5, seed=0).tolist()
        assert len(set(drawn)) == 5 and set(drawn) <= differ - set(top.tolist())
        assert _others(states, layer, top, 5, seed=1).tolist() != drawn
        assert set(_others(states, layer, top, 10**6, seed=0).tolist()) == differ - set(top.tolist())


def test_the_study_says_what_exchanging_its_circuit_one_feature_at_a_time_does(
    model: LanguageModel,
    dictionaries: dict[int, Dictionary],
    states: list[PairState],
    runs: list[Path],
    text_file: Path,
) -> None:
    record = STUDIES["circuits"].run(
        CircuitArguments(
            dictionaries=(runs[0], runs[2]),
            text=(str(text_file),),
            tokens=600,
            length=48,
            pairs=8,
            features=6,
            drawn=2,
        )
    )
    figures = {figure.label: figure for figure in record.figures}
    finds, holds = states[::2], states[1::2]
    scores = {}
    for layer, dictionary in dictionaries.items():
        each = [
            integrated_gradients(model, layer, dictionary, state)
            * (state.clean[layer] - state.corrupt[layer])
            for state in finds
        ]
        scores[layer] = sum(one.sum(0) for one in each) / len(finds)
    top = {layer: score.abs().argsort(descending=True)[:6].tolist() for layer, score in scores.items()}
    rows = record.tables[0].rows
    assert [row[0] for row in rows] == ["0-vasae"] * 6 + ["1-plain"] * 6
    assert all(isinstance(row[1], FeatureCell) and row[1].text for row in rows)
    expected = [float(scores[layer][feature]) for layer in top for feature in top[layer]]
    assert [row[2] for row in rows] == pytest.approx(expected, abs=1e-5)

    all_of = {layer: set(range(dictionary.d_sae)) for layer, dictionary in dictionaries.items()}
    circuit = {layer: set(features) for layer, features in top.items()}
    rest = {layer: all_of[layer] - circuit[layer] for layer in all_of}
    whole = sum(state.difference for state in holds)
    none, kept, without = (
        sum(exchanged(model, dictionaries, state, features) for state in holds)
        for features in (all_of, rest, circuit)
    )
    corrupt = sum(state.corrupt_difference for state in holds)
    for label, value in (
        ("answers", sum(state.difference > 0 for state in states) / len(states)),
        ("effect that features carry", (whole - none) / (whole - corrupt)),
        ("patch: faithfulness", (kept - none) / (whole - none)),
        ("ablate: what is left without the circuit", (without - none) / (whole - none)),
    ):
        assert figures[label].value == pytest.approx(value, rel=1e-2, abs=1e-3), label
    assert figures["patch: faithfulness"].control is not None
    assert f"keep {100 * figures['patch: faithfulness'].value:.1f} %".replace("-", "−") in record.answer

    chart = record.chart
    assert chart is not None and [node.column for node in chart.nodes] == [2, 0, 0, 1, 1]
    last = {link.source: link.weight for link in chart.links if link.target == "logit difference"}
    assert last == {f"1/{f}": pytest.approx(float(scores[1][f]), abs=1e-5) for f in top[1][:2]}
    gradients = [integrated_gradients(model, 1, dictionaries[1], state) for state in finds]
    between = sum(
        edges(model, (0, 1), dictionaries, state, gradient, torch.tensor(top[1]))
        for state, gradient in zip(finds, gradients)
    )
    graph = {(link.source, link.target): link.weight for link in chart.links}
    for row, late in enumerate(top[1][:2]):
        for early in top[0][:2]:
            weight = float(between[row, early]) / len(finds)
            assert graph[f"0/{early}", f"1/{late}"] == pytest.approx(weight, abs=1e-5)
    drawn = motifs([between[:, top[0]] / len(finds)], seed=0)
    assert [row[:2] for row in record.tables[1].rows] == [[each.name, each.times] for each in drawn]


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
