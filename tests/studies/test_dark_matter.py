"""The linear part of an error is what was put into it."""

from pathlib import Path

import pytest
import torch

from lexiscope.checkpoint import load_checkpoint
from lexiscope.language_model import LanguageModel
from studies import STUDIES, StudyError
from studies.dark_matter import DarkMatterArguments, costs, error_of
from studies.inputs import read_passages, read_stream
from studies.regression import explained, ridge


def test_half_of_an_error_that_is_half_linear_is_explained() -> None:
    x, noise = torch.randn(4000, 8), torch.randn(4000, 5)
    linear = x @ torch.linalg.qr(torch.randn(8, 5)).Q
    y = linear + noise
    fit = ridge(x[:2000], y[:2000])
    group = torch.arange(2000) // 20
    share = explained(y[2000:], fit(x[2000:]), fit.bias, group)
    assert share.low < 0.5 < share.high and share.value == pytest.approx(0.5, abs=0.03)
    slow = 1 - sum(float((a - b).norm() ** 2) for a, b in zip(y[2000:], fit(x[2000:]), strict=True)) / sum(
        float((a - fit.bias).norm() ** 2) for a in y[2000:]
    )
    assert share.value == pytest.approx(slow, abs=1e-5)


def test_an_exact_linear_part_removes_the_whole_cost(
    model: LanguageModel, runs: list[Path], text_file: Path
) -> None:
    dictionary = load_checkpoint(runs[2]).dictionary
    found = read_passages(model, [str(text_file)], tokens=400, length=48)
    stream = read_stream(model, found, [1])

    def exact(x: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        return error_of(dictionary, x, tokens)

    price = costs(model, 1, dictionary, exact, found, tokens=300, seed=0)
    assert price.removed.value == pytest.approx(price.whole.value, abs=1e-5)
    assert price.whole.value > 0 and len(stream.tokens) > 300


def test_a_text_too_short_for_a_regression_is_refused(runs: list[Path], text_file: Path) -> None:
    with pytest.raises(StudyError, match="needs 512 tokens"):
        STUDIES["dark-matter"].run(
            DarkMatterArguments(dictionaries=(runs[2],), text=(str(text_file),), tokens=200, length=48)
        )
    with pytest.raises(StudyError, match="one dictionary"):
        STUDIES["dark-matter"].run(DarkMatterArguments(dictionaries=tuple(runs[1:]), text=(str(text_file),)))
