"""Telling two texts apart: probes and scores against slow counts, and texts that differ by one word."""

from pathlib import Path

import pytest
import torch

from lexiscope.sparse_code import SparseCode
from studies import STUDIES, StudyError
from studies.classify import ClassifyArguments
from studies.layers import LayersArguments, specificity
from studies.two_texts import auc, correct, fit_probe, pooled, shuffled
from tests import tiny


@pytest.fixture(scope="module")
def other_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same words, but no cat: a house."""
    file = tmp_path_factory.mktemp("other") / "house.txt"
    file.write_text(tiny.text(4000, seed=9).replace("cat", "house").replace("dog", "house"))
    return file


def test_pooling_takes_the_largest_activation_of_a_passage() -> None:
    code = SparseCode(
        torch.tensor([[2.0, 1.0], [3.0, 0.0], [-5.0, 1.0]]), torch.tensor([[0, 1], [1, 0], [2, 0]])
    )
    assert pooled(code, torch.tensor([0, 0, 1]), 2, 3).tolist() == [[2, 3, 0], [1, 0, 5]]


def test_the_auc_is_the_share_of_ordered_pairs() -> None:
    scores, label = torch.randn(30).round(decimals=1), (torch.rand(30) > 0.5).float()
    pairs = [(a, b) for a in scores[label > 0.5] for b in scores[label < 0.5]]
    slow = sum(1.0 if a > b else 0.5 if a == b else 0.0 for a, b in pairs) / len(pairs)
    assert auc(scores, label) == pytest.approx(slow)


def test_a_probe_finds_the_input_that_carries_the_label_and_ignores_constants() -> None:
    inputs = torch.randn(200, 12)
    inputs[:, 3] = 7.0
    label = (inputs[:, 5] > 0).float()
    probe = fit_probe(inputs, label)
    assert int(probe.weight.abs().argmax()) == 5 and float(probe.weight[3]) == 0
    assert float(correct(probe, inputs, label).mean()) > 0.95


def test_specificity_is_the_difference_of_two_shares() -> None:
    active = torch.rand(80, 20) < 0.3
    label = torch.arange(80) % 2 * 1.0
    active[label > 0.5, 4] = True
    trains = torch.arange(80) < 40
    own = active[~trains][:, 4].float()
    slow = float(own[label[~trains] > 0.5].mean() - own[label[~trains] < 0.5].mean())
    assert specificity(active, label, trains, label, 1).value == pytest.approx(slow, abs=1e-6)
    [broken, other] = shuffled(label, trains, 2, seed=0)
    assert not torch.equal(broken, other)
    assert torch.equal(broken[~trains], label[~trains]) and not torch.equal(broken[trains], label[trains])


def test_texts_that_differ_by_a_word_are_told_apart_by_it(
    runs: list[Path], text_file: Path, other_text: Path
) -> None:
    ask = {"text": (str(text_file),), "against": (str(other_text),), "tokens": 3000, "length": 48}
    record = STUDIES["classify"].run(ClassifyArguments(dictionaries=(runs[2],), **ask))
    figures = {figure.label: figure for figure in record.figures}
    assert figures["token counts"].value > 0.85 and figures["features, binarised"].value > 0.7
    assert all(abs((figure.control or 0) - 0.5) < 0.35 for figure in record.figures)
    record = STUDIES["layers"].run(LayersArguments(dictionaries=(runs[0], runs[2]), features=8, **ask))
    specific = [figure for figure in record.figures if figure.unit == "share"]
    assert max(figure.value for figure in specific) > 0.2
    assert record.chart is not None and [point.x for point in record.chart.series[0].points] == [0, 1]


def test_texts_that_are_the_same_or_too_short_are_refused(
    runs: list[Path], text_file: Path, other_text: Path
) -> None:
    same = {"text": (str(text_file),), "against": (str(text_file),), "tokens": 2500, "length": 32}
    with pytest.raises(StudyError, match="share passages"):
        STUDIES["classify"].run(ClassifyArguments(dictionaries=(runs[2],), **same))
    few = same | {"against": (str(other_text),), "tokens": 300}
    with pytest.raises(StudyError, match="needs 20 passages"):
        STUDIES["layers"].run(LayersArguments(dictionaries=(runs[0], runs[2]), **few))
