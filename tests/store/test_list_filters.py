"""Filters that no feature can pass, or no dictionary has, on both databases."""

from typing import Any

import pytest

from lexiscope.records import Filters
from store import NotFound, Store


@pytest.mark.parametrize(
    ("given", "passed"),
    [
        ({"where": "density <= 1e-50"}, "silent"),
        ({"where": "density > 1e-50"}, "fired"),
        ({"where": "relation_q <= 1e-50"}, "none"),
        ({"min_density": 1e-60}, "all"),
        ({"max_density": 1e-60}, "silent"),
        ({"min_cosine": 1e-50}, "all"),
        ({"min_share": 1e-300}, "all"),
    ],
)
def test_a_value_below_what_32_bits_hold_is_0(store: Store, given: dict[str, Any], passed: str) -> None:
    wanted = Filters.model_validate({**given, "source": "1-vasae", "limit": 200})
    every, silent = set(range(200)), set(range(9, 200, 10))
    passing = {"all": every, "silent": silent, "fired": every - silent, "none": set[int]()}
    assert {ref.index for ref in store.features(wanted).features} == passing[passed]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"source": "0-vasea"}, "the index has no dictionary '0-vasea': it has 0-vasae, 1-plain"),
        ({"layer": 7}, "the index has no dictionary at layer 7: it has layers 0, 1, 2"),
        ({"model": "other", "layer": 2}, "other has no dictionary at layer 2: it has layers 0"),
        ({"model": "other", "source": "2-vasae"}, "other has no dictionary '2-vasae': it has 0-vasae"),
    ],
)
def test_a_source_or_a_layer_that_does_not_exist_is_said(
    store: Store, given: dict[str, Any], says: str
) -> None:
    wanted = Filters.model_validate(given)
    for ask in (
        lambda: store.features(wanted),
        lambda: store.search("paris", wanted),
        lambda: store.search("no such token", wanted),
    ):
        with pytest.raises(NotFound, match=says):
            ask()


def test_two_filters_of_which_each_has_dictionaries_and_both_have_none_give_an_empty_list(
    store: Store,
) -> None:
    both = Filters(source="0-vasae", layer=2)
    assert store.features(both).features == [] == store.search("paris", both).features
