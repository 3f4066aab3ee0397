"""The bake-off: it trains nothing anchored, chooses a set that names, and a run can be asked to use it."""

from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

import trainer
from lexiscope.anchor_sets import CONTROLS, DESCRIPTIONS
from lexiscope.checkpoint import load_checkpoint
from lexiscope.language_model import LanguageModel
from lexiscope.text import passages
from trainer.activations.harvest import harvest
from trainer.anchor_survey import anchor_sources, survey
from trainer.errors import RecipeError

SMALL = {"k": 4, "batch": 256, "dense_rank": 2}


def test_the_survey_finds_that_the_mean_state_of_a_token_names_best(
    model: LanguageModel, text_file: Path
) -> None:
    with harvest(model, list(passages(model, [str(text_file)], length=48, tokens=3000)), layers=[0]) as found:
        tokens, following = found.layout.tokens, found.layout.following
        assert (tokens[1:][following[:-1] >= 0] == following[:-1][following[:-1] >= 0]).all()
        result = survey(model, found, 0, anchor_sources(model, found, 0), k=4, width=model.vocab_size)
    assert set(result.found) == set(DESCRIPTIONS)
    assert result.best not in CONTROLS
    assert result.found[result.best].firing > result.found["rotated"].firing


def test_a_run_may_leave_the_choice_to_the_bake_off_and_says_what_was_chosen(
    model: LanguageModel, text_file: Path, tmp_path: Path
) -> None:
    recipe = replace(trainer.recipe("vasae"), anchors="auto", **SMALL)
    plan = trainer.Plan([str(text_file)], [(recipe, [0])], tmp_path, 3000, 3000, 300, length=48)
    (path,) = trainer.train(model, plan, console=Console(quiet=True))
    assert any(load_checkpoint(path).details["anchors"].startswith(words) for words in DESCRIPTIONS.values())


@pytest.mark.parametrize(
    "kind",
    ["following", "previous", "unigram", "unembedding", "permuted", "gaussian", "rotated", "embedding"],
)
def test_rows_align_to_whatever_set_they_are_held_to(
    model: LanguageModel, text_file: Path, tmp_path: Path, kind: str
) -> None:
    recipe = replace(trainer.recipe("cone"), anchors=kind, **SMALL)
    plan = trainer.Plan(
        [str(text_file)], [(recipe, [1])], tmp_path, 3000, 2000, 300, length=48, set_name=kind
    )
    (path,) = trainer.train(model, plan, console=Console(quiet=True))
    assert load_checkpoint(path).metrics["aligned_live"] == 1


def test_an_anchor_set_that_does_not_exist_is_named() -> None:
    with pytest.raises(RecipeError, match="no anchor set 'best'"):
        replace(trainer.recipe("vasae"), anchors="best")
