"""`--recipe` and `--set` select a config, typed and checked."""

from itertools import permutations

import pytest

from trainer.errors import RecipeError
from trainer.presets import configured, recipe


def test_settings_are_of_the_fields_type_and_go_to_the_recipes_that_have_them() -> None:
    cone, plain = configured(
        ["cone", "plain"], ["k=8", "cosine=0.7", "plain.aux_weight=1e-2", "centre=true", "schedule=constant"]
    )
    assert (cone.k, plain.k, cone.cosine) == (8, 8, 0.7)
    assert plain.aux_weight == 0.01 and cone.aux_weight != 0.01
    assert cone.centre is True and cone.schedule == "constant"
    assert cone.name == "cone"


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("cosine=0.7", "'cosine=0.7' sets nothing; .* plain: .*k"),
        ("vasae.k=3", "sets nothing"),
        ("k", "sets nothing"),
        ("name=other", "sets nothing"),
        ("k=many", "k is 'many' in plain; it takes a whole number"),
        ("k=1.5", "a whole number"),
        ("learning_rate=fast", "a number"),
        ("centre=maybe", "true or false"),
        ("schedule=cosine", "warmup-decay, constant"),
        ("k=0", "k is 0: it must be a finite number above 0"),
        ("aux_weight=-1", "not below 0"),
        ("anchors=best", "no anchor set 'best'"),
        ("terms=nothing:1", "no objective term 'nothing'"),
        ("epochs=3", "epochs needs batch_of=passages"),
    ],
)
def test_a_setting_that_cannot_be_used_is_refused_in_words(setting: str, says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        configured(["plain"], [setting])


@pytest.mark.parametrize("rate", ["nan", "inf", "-inf", "1e999", "0", "-0.001"])
def test_a_learning_rate_that_cannot_train_is_refused(rate: str) -> None:
    with pytest.raises(RecipeError, match="learning_rate is"):
        configured(["vasae"], [f"learning_rate={rate}"])


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("plain", ["epochs=5", "batch_of=passages", "patience=2", "terms=kl:1"]),
        ("vasae", ["layers=shared", "lookup=none"]),
        ("vasae", ["centre=false", "lookup=none"]),
        ("bagging", ["k=30", "members=3"]),
        ("sasa", ["k=30", "block=5"]),
        ("hierarchical", ["budgets=1,4,16", "k=16"]),
        ("metasae", ["meta_width=3", "meta_k=2"]),
        ("paper-soft", ["frozen=true", "anchor_weight=0"]),
    ],
)
def test_settings_may_be_given_in_any_order(name: str, settings: list[str]) -> None:
    assert len({configured([name], order)[0] for order in permutations(settings)}) == 1


def test_of_settings_of_one_field_the_last_holds() -> None:
    cone, plain = configured(["cone", "plain"], ["k=3", "plain.k=5", "cone.k=0", "cone.k=7"])
    assert (cone.k, plain.k) == (7, 5)


def test_an_unknown_recipe_is_answered_with_those_there_are() -> None:
    with pytest.raises(RecipeError, match="no recipe 'best'; there are vasae, cone, plain, matched"):
        recipe("best")


def test_a_look_up_needs_centred_activations() -> None:
    with pytest.raises(RecipeError, match="A token look-up needs centre=true"):
        configured(["vasae"], ["centre=false"])


PAPER = {
    "positions": "all",
    "centre": False,
    "k": 32,
    "dense_rank": None,
    "lookup": "none",
    "anchors": "embedding",
    "anchor_mode": "nearest",
    "anchor_every": 1,
    "learning_rate": 1e-3,
    "schedule": "constant",
    "epochs": 20,
    "patience": 3,
    "length": 128,
    "batch": 32,
    "batch_of": "passages",
    "restarts": 0,
    "terms": "",
}
OURS = {
    "positions": "after-first",
    "centre": True,
    "k": 32,
    "anchors": "current",
    "learning_rate": 2e-3,
    "schedule": "warmup-decay",
    "epochs": 0,
    "patience": 0,
    "batch": 2048,
    "batch_of": "tokens",
    "restarts": 4,
    "aux_k": 64,
    "aux_weight": 1 / 32,
    "terms": "",
}
DEFINED = {
    "paper-plain": PAPER | {"anchor_weight": 0, "frozen": False},
    "paper-soft": PAPER | {"anchor_weight": 1e-4, "frozen": False},
    "paper-hard": PAPER | {"anchor_weight": 0, "frozen": True},
    "vasae": OURS | {"lookup": "fixed", "dense_rank": 16, "cosine": None},
    "matched": OURS | {"lookup": "none", "dense_rank": 16, "cosine": None},
    "cone": OURS | {"lookup": "none", "dense_rank": 16, "cosine": 0.802},
    "plain": OURS | {"lookup": "none", "dense_rank": 0, "cosine": None},
}
"""The tables of docs/method.md: #the-vasae-paper and #recipes. None: no such setting."""


@pytest.mark.parametrize("name", DEFINED)
def test_the_settings_of_a_recipe_are_those_that_the_method_says(name: str) -> None:
    config, defined = recipe(name), DEFINED[name]
    assert {field: getattr(config, field, None) for field in defined} == defined
