"""Conditions on the numbers of a feature, as a person writes them."""

import pytest
from pydantic import ValidationError

from lexiscope.records import Condition, Filters


def test_conditions_are_separated_by_commas_or_and() -> None:
    filters = Filters(where="relation_lift >= 5, skewness<1 and recall > 10 %")
    assert filters.conditions == [
        Condition("relation_lift", ">=", 5),
        Condition("skewness", "<", 1),
        Condition("recall", ">", 0.1),
    ]
    assert Filters(where=" ").conditions == []


@pytest.mark.parametrize(
    ("where", "right"),
    [
        ("relation_lif >= 5", "the nearest is 'relation_lift'"),
        ("relation_lift", "for example relation_lift >= 5"),
        ("skewness < 1.2.3", "'1.2.3' is no number"),
        ("skewness < 1e300", "larger than any number"),
        (", ".join(["recall > 0"] * 17), "at most 16"),
        ("live; DROP TABLE listing", "is no condition"),
    ],
)
def test_a_condition_that_cannot_be_read_is_refused_with_what_could(where: str, right: str) -> None:
    with pytest.raises(ValidationError, match=right):
        Filters(where=where)


def test_the_address_of_a_list_holds_only_what_differs() -> None:
    assert Filters(sort="index").in_address() == {}
    given = Filters(model="m", source="s", live=True, sort="index", descending=True, cursor="x").in_address()
    assert given == {"live": "true", "sort": "index", "descending": "true"}
