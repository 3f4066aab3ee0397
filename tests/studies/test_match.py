"""The match finds a permutation that is known, and is the best of all."""

from itertools import permutations
from pathlib import Path

import pytest
import torch

from lexiscope.sparse_code import SparseCode
from studies import STUDIES, StudyError
from studies.match import Layer, MatchArguments, Step, assign, chain_lengths, correlation, dense, step


def test_the_assignment_is_the_best_of_all_permutations() -> None:
    a, b = torch.randn(6, 5), torch.randn(6, 5)

    def cost(order: tuple[int, ...]) -> float:
        return sum(float((a[i] - b[j]).square().sum()) for i, j in enumerate(order))

    assert tuple(assign(a, b).tolist()) == min(permutations(range(6)), key=cost)


def test_folding_matches_features_that_differ_in_scale_and_threshold() -> None:
    rows, z = torch.randn(40, 3), torch.rand(300, 40)
    order, scale = torch.randperm(40), torch.rand(40) * 8 + 0.2
    theta = torch.full((40,), 0.1)
    a = Layer(torch.arange(40), rows, theta, z, torch.arange(40))
    shuffled = (rows / scale[:, None])[order] + 1e-4 * torch.randn(40, 3)
    b = Layer(torch.arange(40), shuffled, (theta * scale)[order], (z * scale)[:, order], order)
    folded, plain = step(a, b), step(a, b, folded=False)
    assert bool(folded.same_name.all()) and float(folded.together.min()) > 0.999
    assert float(plain.same_name.float().mean()) < 1


def test_activations_and_their_correlation_are_those_of_a_slow_loop() -> None:
    code = SparseCode(torch.tensor([[2.0, 1.0], [3.0, 0.0]]), torch.tensor([[4, 1], [1, 0]]))
    assert dense(code, torch.tensor([1, 4]), 6).tolist() == [[1.0, 2.0], [3.0, 0.0]]
    a, b = torch.randn(50, 3), torch.randn(50, 3)
    slow = [float(torch.corrcoef(torch.stack([a[:, i], b[:, i]]))[0, 1]) for i in range(3)]
    assert correlation(a, b).tolist() == pytest.approx(slow, abs=1e-5)


def test_a_chain_is_as_long_as_its_matches_hold() -> None:
    steps = [
        Step(torch.tensor([1, 0]), torch.tensor([0.9, 0.1]), torch.zeros(2)),
        Step(torch.tensor([0, 1]), torch.tensor([0.2, 0.7]), torch.zeros(2)),
    ]
    assert [each.tolist() for each in chain_lengths(steps)] == [[2, 0], [0, 1], [0, 0]]


def test_two_layers_give_a_flow_and_one_layer_is_refused(runs: list[Path], text_file: Path) -> None:
    text = {"text": (str(text_file),), "tokens": 900, "length": 48, "features": 30, "shown": 5}
    record = STUDIES["match"].run(MatchArguments(dictionaries=(runs[0], runs[1]), **text))
    figures = {figure.label: figure for figure in record.figures}
    measured = figures["correlation of matched activations"]
    assert measured.control is not None and measured.value > measured.control
    assert record.chart is not None and {node.column for node in record.chart.nodes} == {0, 1}
    ends = {node.id for node in record.chart.nodes}
    assert all(link.source in ends and link.target in ends for link in record.chart.links)
    with pytest.raises(StudyError, match="one dictionary a layer"):
        STUDIES["match"].run(MatchArguments(dictionaries=(runs[1], runs[2]), **text))
