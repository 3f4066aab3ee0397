"""Tables of a vocabulary are computed once; a file that is damaged or of other tokens is written again."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lexiscope import vocabulary_tables
from lexiscope.evidence import families, words_of
from lexiscope.language_model import LanguageModel
from lexiscope.vocabulary_tables import family_table, word_table


@pytest.fixture
def kept(model: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the tables, of which nothing is in memory; every vocabulary counts as large."""
    monkeypatch.setattr(vocabulary_tables, "LARGE", 0)
    monkeypatch.setenv("LEXISCOPE_TABLES", str(tmp_path / "tables"))
    monkeypatch.setattr(model, "kept", {})
    return tmp_path / "tables"


def again(model: LanguageModel) -> torch.Tensor:
    model.kept.clear()
    return family_table(model)


def test_families_are_computed_once_and_read_again(
    model: LanguageModel, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = families(model.embedding, model.vocabulary.folded())
    assert torch.equal(family_table(model), expected)
    assert family_table(model) is family_table(model)
    monkeypatch.setattr(vocabulary_tables, "families", lambda *_: pytest.fail("computed twice"))
    assert torch.equal(again(model), expected)


@pytest.mark.parametrize("damage", ["cut", "other", "huge"])
def test_a_damaged_or_foreign_file_is_written_again(model: LanguageModel, kept: Path, damage: str) -> None:
    expected = family_table(model)
    (file,) = kept.iterdir()
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:100])
    elif damage == "other":
        save_file({"families": expected[:3].contiguous()}, file)
    else:
        save_file({"families": expected + model.vocab_size}, file)
    assert torch.equal(again(model), expected)
    assert torch.equal(load_file(file)["families"], expected)


def test_other_tokens_have_another_file(
    model: LanguageModel, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    family_table(model)
    monkeypatch.setattr(model, "embedding", model.embedding.flip(0))
    again(model)
    assert len(list(kept.iterdir())) == 2


def test_a_folder_that_cannot_be_written_costs_only_time(model: LanguageModel, kept: Path) -> None:
    kept.write_text("a file where the folder should be")
    assert torch.equal(family_table(model), families(model.embedding, model.vocabulary.folded()))


def test_words_are_those_of_the_vocabulary(model: LanguageModel, kept: Path) -> None:
    assert np.array_equal(word_table(model), words_of(model.vocabulary.raw))
    assert word_table(model) is word_table(model)
