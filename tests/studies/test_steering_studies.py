"""Topics, unlearning, optimisation and forecasts: each choice against a slow one, and all end to end."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lexiscope.adaptive_selection import NormMatch
from lexiscope.checkpoint import load_checkpoint
from lexiscope.language_model import LanguageModel
from lexiscope.sparse_code import SparseCode
from studies import STUDIES, StudyError, dated_wording
from studies.dated_wording import dated
from studies.forecast import ForecastArguments, Gate
from studies.inputs import Stream, check_fixed_rows
from studies.interventions import Positions
from studies.optimise import OptimiseArguments, ascend, projected, with_openings
from studies.topics import TopicArguments, can_swap, name_scores, swapped, unit_scores
from studies.unlearn import UnlearnArguments, activity, chosen_features
from tests import tiny


@pytest.fixture(scope="module")
def other_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("other") / "house.txt"
    file.write_text(tiny.text(4000, seed=9).replace("cat", "house").replace("dog", "house"))
    return file


@pytest.fixture
def ask(runs: list[Path], text_file: Path) -> dict:
    return {"dictionaries": (runs[2],), "text": (str(text_file),), "tokens": 1500, "length": 32}


def test_names_like_the_topic_score_most_and_silent_features_least() -> None:
    embedding = torch.randn(30, 16)
    embedding[7] = embedding[3] + 0.1 * torch.randn(16)
    scores = name_scores(embedding, torch.tensor([5, 7, -1, 12]), torch.tensor([3]))
    rows = embedding - embedding.mean(0)
    slow = [float(torch.cosine_similarity(rows[each], rows[3], dim=0)) for each in (5, 7, 12)]
    assert scores[[0, 1, 3]].tolist() == pytest.approx(slow, abs=1e-5)
    assert float(scores[2]) == float(scores.min())
    assert unit_scores(scores)[1] == 1 and unit_scores(scores).min() == 0


def test_a_swap_with_equal_scores_changes_nothing(runs: list[Path], model: LanguageModel) -> None:
    dictionary = load_checkpoint(runs[2]).dictionary
    x = model.read(torch.tensor([[model.bos, *model.tokenise("the cat sat on a mat")]]), [1])[1][
        0, 1:
    ].float()
    at = Positions(torch.zeros(len(x), dtype=torch.long), torch.zeros(len(x), dtype=torch.long))
    assert torch.allclose(swapped(dictionary, torch.full((dictionary.d_sae,), 0.5))(x, at), x, atol=1e-4)
    none = torch.zeros(dictionary.d_sae)
    without = swapped(dictionary, none)(x, at)
    assert torch.allclose(without, x - dictionary.decode_sparse(dictionary.encode(x), x), atol=1e-4)


def test_what_the_input_selects_too_is_not_swapped(
    runs: list[Path], ask: dict, other_text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = load_checkpoint(runs[2])
    assert can_swap(checkpoint.dictionary)
    matched = checkpoint._replace(dictionary=replace(checkpoint.dictionary, selection=NormMatch(8)))
    monkeypatch.setattr("studies.inputs.load_checkpoint", lambda *_, **__: matched)
    both = ask | {"against": (str(other_text),), "topic": "cat dog", "features": 4, "judged": 3}
    record = STUDIES["topics"].run(TopicArguments(**both))
    assert record.figures and not any("swap" in figure.label for figure in record.figures)


def test_features_to_forget_are_active_there_and_hardly_elsewhere() -> None:
    code = SparseCode(
        torch.tensor([[2.0, 1.0], [4.0, 0.0], [0.0, 0.0]]), torch.tensor([[0, 1], [0, 2], [1, 2]])
    )
    share, mean = activity(code, 4)
    assert share.tolist() == pytest.approx([2 / 3, 1 / 3, 0, 0]) and mean.tolist() == [3, 1, 0, 0]
    forget, retain = torch.tensor([0.5, 0.4, 0.3, 0.0]), torch.tensor([0.2, 0.001, 0.0, 0.0])
    assert chosen_features(forget, retain, limit=0.01, n=5).tolist() == [1, 2]


def test_ascent_finds_the_rows_that_a_goal_is_made_of() -> None:
    rows = torch.nn.functional.normalize(torch.randn(40, 64), dim=-1)
    goal = torch.nn.functional.normalize(2 * rows[5] - rows[17], dim=0)

    def objective(vector: torch.Tensor) -> torch.Tensor:
        return vector @ goal - 0.01 * vector.square().sum()

    found = ascend(objective, rows, size=40, m=2, budget=3.0, steps=25)
    assert sorted(found.nonzero().squeeze(1).tolist()) == [5, 17]
    assert float((found @ rows).norm()) == pytest.approx(3, abs=1e-4) and found[5] > 0 > found[17]
    dense = ascend(objective, None, size=64, m=64, budget=3.0, steps=25)
    assert float(dense @ goal) == pytest.approx(3, abs=0.02)
    assert projected(torch.tensor([3.0, -4.0, 1.0]), None, 2, 10.0).tolist() == pytest.approx([6, -8, 0])


def test_a_gate_opens_where_its_features_write_most(runs: list[Path], model: LanguageModel) -> None:
    dictionary = load_checkpoint(runs[2]).dictionary
    tokens = torch.tensor([[model.bos, *model.tokenise("the cat sat on a mat and then one dog ran")]])
    x = model.read(tokens, [1])[1][0, 1:].float()
    code = dictionary.encode(x)
    chosen = code.indices[0, :2]
    at = Positions(tokens[0, 1:], torch.zeros(len(x), dtype=torch.long))
    slow = [
        sum(
            value * float(dictionary.W_dec[index].norm())
            for value, index in zip(v.tolist(), i.tolist(), strict=True)
            if index in chosen
        )
        for v, i in zip(code.values, code.indices, strict=True)
    ]
    gate = Gate(dictionary, chosen)
    assert gate.score(x, at).tolist() == pytest.approx(slow, abs=1e-3)
    passages = Stream(tokens[0, 1:], torch.arange(len(x)), {1: x})
    opened = float((gate.largest(passages, 1) > gate.fitted(passages, 1).cut).float().mean())
    assert 0 < opened <= 0.11


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sentences that fit the context of the tiny model."""
    monkeypatch.setattr(
        dated_wording,
        "OPENINGS",
        {
            "business": ("In {year} a {subject}", ("cat sat", "dog ran", "mat fell")),
            "history": ("By {year} the {subject}", ("rain", "night", "stone")),
        },
    )
    endings = ((" 77 zz 7",) * 3, (" 88 qq 8",) * 3)
    monkeypatch.setattr(dated_wording, "ENDINGS", {"business": endings, "history": endings})


@pytest.mark.usefixtures("short")
def test_sentences_of_both_wordings_share_their_openings(model: LanguageModel) -> None:
    found = dated(model, "history", 12, seed=0)
    for aware, ahead, first in zip(*found, strict=True):
        assert aware[0] == model.bos and aware[:first].tolist() == ahead[:first].tolist()
        assert aware[first:].tolist() != ahead[first:].tolist()
    years = {model.text(each[1:].tolist()).split()[1] for each in found.aware}
    assert len(years) > 1 and all(year.isdigit() for year in years)


@pytest.mark.usefixtures("short")
def test_steering_studies_end_in_records(ask: dict, other_text: Path) -> None:
    both = ask | {"against": (str(other_text),)}
    for name, arguments in (
        ("unlearn", UnlearnArguments(**both, features=4, retained=0.5, judged=4)),
        ("topics", TopicArguments(**both, topic="cat dog", features=4, judged=3)),
        ("optimise", OptimiseArguments(**ask, wanted=" dog", features=3, prompts=4, opening=8, steps=3)),
        ("forecast", ForecastArguments(**ask, features=6, sentences=8)),
    ):
        record = STUDIES[name].run(arguments)
        assert record.chart is not None and record.chart.series and record.tables
        assert any(figure.low is not None for figure in record.figures), name
        assert any(figure.control is not None for figure in record.figures), name


def test_passages_are_judged_whose_openings_found_nothing() -> None:
    one, two = np.arange(20), np.concatenate([np.arange(8), np.arange(50, 62)])  # of one opening
    found = [one, two, np.arange(5), *(np.arange(at, at + 20) for at in range(1, 6))]
    arguments = OptimiseArguments(dictionaries=(), text=(), wanted=" dog", opening=8, prompts=5)
    opened = with_openings(found, arguments)
    assert [each[0] for each in opened] == [0, 1, 2, 3, 4] and len(opened[0]) == 20


def test_optimisation_raises_what_it_is_asked_to(ask: dict) -> None:
    arguments = OptimiseArguments(
        **ask, wanted=" dog", features=4, prompts=8, opening=8, steps=6, strength=1.0
    )
    figures = {figure.label: figure for figure in STUDIES["optimise"].run(arguments).figures}
    few = figures["rise of the log probability, few features"]
    assert few.value > 0 and few.control is not None and few.value > few.control


def test_rows_that_are_scaled_by_the_input_are_refused(runs: list[Path]) -> None:
    dictionary = load_checkpoint(runs[2]).dictionary
    check_fixed_rows(dictionary)
    with pytest.raises(StudyError, match="normalises its input"):
        check_fixed_rows(replace(dictionary, normalise="layer_norm"))


def test_inputs_that_cannot_answer_are_refused(ask: dict, other_text: Path, text_file: Path) -> None:
    both = ask | {"against": (str(other_text),)}
    with pytest.raises(StudyError, match="no words"):
        STUDIES["topics"].run(TopicArguments(**both, topic=" "))
    with pytest.raises(StudyError, match="No feature is active"):
        STUDIES["unlearn"].run(UnlearnArguments(**both, retained=0.0))
    with pytest.raises(StudyError, match="share passages"):
        STUDIES["unlearn"].run(UnlearnArguments(**ask, against=(str(text_file),)))
    with pytest.raises(StudyError, match="is empty"):
        STUDIES["optimise"].run(OptimiseArguments(**ask, wanted=""))
    with pytest.raises(StudyError, match="4 openings"):
        STUDIES["optimise"].run(OptimiseArguments(**ask, wanted=" dog", opening=60))
    with pytest.raises(StudyError, match="A sentence of this study"):
        STUDIES["forecast"].run(ForecastArguments(**ask))
    with pytest.raises(StudyError, match="20 passages"):
        STUDIES["forecast"].run(ForecastArguments(**ask | {"tokens": 200}))
