"""Boards are those of a slow replay, detectors are counted one by one, and features that are the
board states cover them.
"""

from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch

from experiments.tic_tac_toe import make, make_tokenizer
from studies import STUDIES, StudyError
from studies.board import THRESHOLDS, BoardArguments, Measured, coverage, detectors, measure
from studies.tic_tac_toe import ENDS, SQUARES, boards, game, seen_by_the_next, winner


def test_games_are_legal_and_end_as_they_say() -> None:
    draw = Random(0)
    for _ in range(60):
        moves = game(draw)
        after = boards(moves)
        assert len(after) == len(moves) - 1 and ENDS[winner(after[-1])] == moves[-1]
        for turn, board in enumerate(after):
            own = {moves[place] for place in range(0, turn + 1, 2)}
            assert {SQUARES[at] for at, who in enumerate(board) if who == 1} == own
    with pytest.raises(ValueError, match="no legal move"):
        boards("aa")
    assert seen_by_the_next([1, 2, 0, 0, 0, 0, 0, 0, 0], 2)[:3] == [True, False, False]
    assert seen_by_the_next([1, 0, 0, 0, 0, 0, 0, 0, 0], 1)[9] is True


def test_detectors_are_counted_one_by_one() -> None:
    activations, states = torch.rand(40, 3) * (torch.rand(40, 3) < 0.5), torch.rand(40, 2) < 0.4
    largest = activations.max(0).values
    found = detectors(activations, states, largest)
    for place, t in enumerate(THRESHOLDS):
        for feature in range(3):
            on = [bool(a > t * largest[feature] and a > 0) for a in activations[:, feature]]
            for state in range(2):
                both = sum(a and bool(b) for a, b in zip(on, states[:, state], strict=True))
                assert float(found.f1[place, feature, state]) == pytest.approx(
                    2 * both / max(1, sum(on) + int(states[:, state].sum()))
                )
                assert float(found.precision[place, feature, state]) == pytest.approx(both / max(1, sum(on)))


def test_features_that_are_the_states_cover_and_reconstruct_the_board() -> None:
    states = torch.rand(400, 5) < 0.3
    judged, game_of = torch.arange(400) % 2 == 1, torch.arange(400) // 4
    noise = torch.rand(400, 6) * (torch.rand(400, 6) < 0.2)
    perfect = measure(torch.cat([noise, states.float() * 2], 1), states, judged, game_of)
    assert perfect.states.tolist() == pytest.approx([1] * 5) and perfect.board.value == pytest.approx(1)
    assert perfect.precise == 5 and perfect.features.tolist() == [6, 7, 8, 9, 10]
    poor = measure(noise, states, judged, game_of)
    assert float(poor.states.mean()) < 0.5 and poor.board.value < 0.2
    best, _, _ = coverage(detectors(noise, states, noise.max(0).values))
    assert best.shape == (5,)


@pytest.fixture(scope="module")
def games(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("games")
    share = make(folder, games=600, steps=6, batch=32, width=16)
    assert 0 <= share <= 1
    return folder


def test_every_letter_of_a_game_is_one_token() -> None:
    tokenizer = make_tokenizer()
    assert len(tokenizer.encode("aebX")) == 4 and tokenizer.decode(tokenizer.encode("cgd=")) == "cgd="


def test_random_directions_are_measured_by_magnitude_as_the_dictionarys_own_are(
    games: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = trained("abstopk", games, tmp_path)
    seen: list[torch.Tensor] = []

    def recorded(activations: torch.Tensor, *rest: torch.Tensor) -> Measured:
        seen.append(activations)
        return measure(activations, *rest)

    monkeypatch.setattr("studies.board.measure", recorded)
    ask = {"dictionaries": (folder,), "text": (str(games / "games.jsonl"),), "tokens": 3000, "length": 16}
    STUDIES["board"].run(BoardArguments(**ask))
    assert len(seen) == 3 and all((each >= 0).all() for each in seen)
    assert ((seen[1] > 0).sum(1) == 4).all(), "every firing counts"


def trained(recipe: str, games: Path, out: Path) -> Path:
    """A checkpoint of layer 1 of the games' model."""
    from rich.console import Console

    import trainer
    from lexiscope.language_model import load_language_model

    plan = trainer.Plan(
        sources=[str(games / "games.jsonl")],
        runs=[(replace(trainer.recipe(recipe), k=4, batch=128), [1])],
        out=out,
        tokens=3000,
        seen=6000,
        eval_tokens=300,
        length=16,
        width=48,
    )
    [folder] = trainer.train(load_language_model(str(games / "model")), plan, console=Console(quiet=True))
    return folder


def test_a_study_of_games_and_a_text_that_is_none(games: Path, text_file: Path, tmp_path: Path) -> None:
    ask = {"dictionaries": (trained("plain", games, tmp_path),), "tokens": 3000, "length": 16}
    record = STUDIES["board"].run(BoardArguments(text=(str(games / "games.jsonl"),), **ask))
    figures = {figure.label: figure for figure in record.figures}
    assert 0 <= figures["board reconstruction"].value <= 1 and len(record.tables[0].rows) == 18
    assert 0 < figures["coverage"].value < 1 and figures["coverage"].control is not None
    with pytest.raises(StudyError, match="no game of tic-tac-toe"):
        STUDIES["board"].run(BoardArguments(text=(str(text_file),), **ask))
