"""Splitting and absorption are found where they were put, and a letter that is not there is refused."""

from pathlib import Path

import pytest
import torch

from studies import STUDIES, StudyError
from studies.absorption import (
    AbsorptionArguments,
    Words,
    _letter,
    absorbing,
    f1,
    letter_probe,
    main_features,
)


def test_a_letter_that_two_features_share_is_split_and_noise_is_not_added() -> None:
    positive = torch.arange(200) < 80
    active = torch.rand(200, 6) < 0.05
    active[:, 2], active[:, 4] = torch.arange(200) < 50, (torch.arange(200) >= 50) & positive
    chosen, score = main_features(active, positive, list(range(6)))
    assert chosen == [2, 4] and score == pytest.approx(1)
    both = sum(1 for a, b in zip(active[:, 2].tolist(), positive.tolist(), strict=True) if a and b)
    assert f1(active[:, 2], positive) == pytest.approx(2 * both / (50 + 80))


def test_a_feature_that_writes_the_direction_absorbs_and_others_do_not() -> None:
    direction = torch.tensor([1.0, 0, 0])
    rows = torch.tensor([[1.0, 1.0, 0], [0, 1.0, 0]])
    x = torch.tensor([[2.0, 0, 0], [2.0, 0, 0], [2.0, 0, 0], [-1.0, 0, 0]])
    z = torch.tensor([[1.0, 0], [0.5, 0], [0, 9.0], [1.0, 0]])
    assert absorbing(z, rows, x @ direction, direction).tolist() == [True, False, False, False]


def test_the_control_is_as_much_of_the_own_letters_read_along_another_letters_direction() -> None:
    positive, trains = torch.arange(40) % 2 == 1, torch.arange(40) < 20
    raw = torch.zeros(40, 26)
    raw[:, 0], raw[:, 13] = 4.0 * positive, 0.02 * positive  # much of a, hardly any n
    words = Words(torch.arange(40), torch.where(positive, 0, 1), trains)
    rows, right = torch.eye(26)[[1, 13]], torch.ones(40, dtype=torch.bool)
    for writes, absorbs in ((0.7, False), (0.9, True)):  # of n; the probe reads 2 of a
        z = torch.stack([(positive & trains).float(), torch.full((40,), writes)], 1)
        found = _letter(0, positive, words, right, z, rows, raw, torch.eye(26))
        assert found.missed.all() and not found.absorbed.any()
        assert (found.by_chance == absorbs).all()


def test_the_probe_reads_a_letter_that_is_linear() -> None:
    letter = torch.randint(0, 26, (600,))
    x = torch.randn(26, 40)[letter] + 0.3 * torch.randn(600, 40)
    weight, bias = letter_probe(x[:400], letter[:400])
    right = (x[400:] @ weight + bias).argmax(-1) == letter[400:]
    assert float(right.float().mean()) > 0.9


def test_a_model_without_linear_letters_is_refused(runs: list[Path], text_file: Path) -> None:
    ask = {"dictionaries": (runs[2],), "text": (str(text_file),), "tokens": 1500, "length": 48}
    with pytest.raises(StudyError, match=r"letter is not linear|No letter is read"):
        STUDIES["absorption"].run(AbsorptionArguments(**ask))
