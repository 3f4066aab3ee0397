"""Halves of a study's passages hold half of each text, however many there are."""

from pathlib import Path

import pytest

from lexiscope.language_model import LanguageModel
from lexiscope.text import passages
from studies.inputs import read_passages
from tests import tiny


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_every_second_passage_is_half_of_each_text(n: int, model: LanguageModel, tmp_path: Path) -> None:
    texts = [tmp_path / f"{name}.txt" for name in range(n)]
    for seed, text in enumerate(texts):
        text.write_text(tiny.text(400 * (1 + seed % 2), seed=seed))
    found = [each.tobytes() for each in read_passages(model, list(map(str, texts)), tokens=10**6, length=24)]
    half = set(found[1::2])
    for text in texts:
        own = [each.tobytes() for each in passages(model, [str(text)], length=24)]
        assert set(own) <= set(found) and abs(sum(each in half for each in own) - len(own) / 2) <= 1
    if n == 1:
        assert found == own
