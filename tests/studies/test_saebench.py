"""Probes on few features, and what ablation takes from them, on passages whose truth is known."""

from pathlib import Path

import pytest
import torch

from lexiscope.dictionary import Dictionary
from lexiscope.language_model import LanguageModel
from lexiscope.selection import TopK
from lexiscope.sparse_code import SparseCode
from studies import STUDIES, StudyError
from studies.probe_ablation import Texts, attribution, even, scr, sparse_probing, strongest, tpp
from studies.saebench import BenchArguments, lowered
from studies.two_texts import fit_probe
from tests import tiny

D, N = 12, 120


@pytest.fixture
def identity() -> Dictionary:
    """One feature a dimension."""
    eye = torch.eye(D)
    return Dictionary(eye, torch.zeros(D), eye, torch.zeros(D), TopK(D))


def texts_of(x: torch.Tensor) -> Texts:
    """Passages of one position each: x [n, D], every dimension active."""
    n = len(x)
    return Texts(x, SparseCode(x, torch.arange(D).expand(n, D)), torch.arange(n), n)


def test_pooling_is_the_mean_over_positions() -> None:
    code = SparseCode(
        torch.tensor([[2.0, 1.0], [4.0, 0.0], [6.0, 3.0]]), torch.tensor([[0, 1], [0, 2], [1, 2]])
    )
    texts = Texts(torch.zeros(3, 2), code, torch.tensor([0, 0, 1]), 2)
    assert texts.pooled(3).tolist() == [[3, 0.5, 0], [0, 6, 3]]


def test_probes_are_fitted_on_as_many_of_both_labels() -> None:
    label, among = (torch.arange(30) % 3 == 0).float(), torch.arange(30) < 24
    kept = even(label, among)
    assert int(kept[label > 0.5].sum()) == int(kept[label < 0.5].sum()) == 8 and not (kept & ~among).any()


def test_one_feature_is_enough_where_one_tells_the_class() -> None:
    label = torch.arange(N) % 2 * 1.0
    pooled = torch.rand(N, D)
    pooled[:, 4] += 3 * label
    trains = torch.arange(N) % 4 < 2
    assert float(sparse_probing(pooled, label, trains, 1).mean()) == pytest.approx(1)
    pooled[:, 4] = 0
    assert float(sparse_probing(pooled, label, trains, 1).mean()) < 0.75


def test_effects_are_differences_along_the_probe(identity: Dictionary) -> None:
    label = torch.arange(N) % 2 * 1.0
    x = torch.rand(N, D)
    x[:, 2] += 3 * label
    x[:, 7] += 3 * (1 - label)
    probe = fit_probe(x, label)
    effects = attribution(probe, x, label, identity, both=False)
    slow = (x[label > 0.5].mean(0) - x[label < 0.5].mean(0)) * probe.weight / probe.deviation
    assert float(effects[2]) == pytest.approx(float(slow[2]), rel=1e-4)
    assert abs(float(effects[7])) < 1e-9 and int(strongest(effects, 1)) == 2
    assert float(attribution(probe, x, label, identity, both=True)[7]) == pytest.approx(
        abs(float(slow[7])), rel=1e-4
    )


def test_ablating_a_classs_own_feature_lowers_its_probe_alone(identity: Dictionary) -> None:
    source = torch.arange(N) % 3
    x = 0.1 * torch.rand(N, D)
    x[torch.arange(N), source] += 3
    trains = torch.arange(N) % 2 == 0
    assert float(tpp(texts_of(x), identity, source, trains, 1).mean()) > 0.2
    nothing = Dictionary(identity.W_enc, identity.b_enc, identity.W_dec * 0, identity.b_dec, TopK(D))
    assert float(tpp(texts_of(x), nothing, source, trains, 1).abs().max()) == 0


def test_ablating_the_spurious_feature_brings_the_accuracy_back(identity: Dictionary) -> None:
    first, second = torch.arange(N) % 2 * 1.0, torch.arange(N) // 2 % 2 * 1.0
    x = torch.randn(N, D).abs() * 0.3
    x[:, 1] += 1.0 * first
    x[:, 5] += 4.0 * second
    x[:, 8] += 4.0 * (1 - second)
    trains = torch.arange(N) // 4 % 2 == 0
    score = scr(texts_of(x), identity, first, second, trains, 2)
    assert score is not None and score > 0.5
    assert scr(texts_of(torch.ones(N, D)), identity, first, second, trains, 1) is None


def test_lower_case_passages_are_no_longer_than_before(model: LanguageModel) -> None:
    ids = torch.tensor([model.bos, *model.tokenise("The cat ran to Paris")]).numpy()
    [low] = lowered(model, [ids])
    assert len(low) <= len(ids) and model.text(low[1:].tolist()).startswith("the cat ran to p")


def test_a_study_of_three_files(runs: list[Path], text_file: Path, tmp_path: Path) -> None:
    files = [str(text_file)]
    for number, word in enumerate(("house", "night"), 1):
        file = tmp_path / f"{word}.txt"
        file.write_text(tiny.text(3000, seed=number).replace("cat", word).replace("dog", word))
        files.append(str(file))
    ask = {"dictionaries": (runs[2],), "tokens": 1500, "length": 32, "judged": 4}
    record = STUDIES["saebench"].run(BenchArguments(text=tuple(files), **ask))
    figures = {figure.label: figure for figure in record.figures}
    assert figures["L0"].value == pytest.approx(4, abs=0.01)
    assert 0.5 < figures["sparse probing, 5 features"].value <= 1
    assert record.chart is not None and record.chart.series[0].name == "TPP"
    with pytest.raises(StudyError, match="three --text"):
        STUDIES["saebench"].run(BenchArguments(text=tuple(files[:2]), **ask))
