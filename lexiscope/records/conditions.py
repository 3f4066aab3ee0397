"""Conditions on the numbers of a feature, as a person writes them: `relation_lift >= 5, skewness < 1`."""

import re
from typing import NamedTuple

from lexiscope.measures import FEATURE
from lexiscope.records.record import unknown_name

NUMBERS = tuple(name for name, measure in FEATURE.items() if measure.unit != "flag")
"""what lists of features are sorted by and filtered on"""
MAX_CONDITIONS = 16
_CONDITION = re.compile(r"\s*(\w+)\s*(>=|<=|>|<|=)\s*([-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?)\s*(%?)\s*", re.ASCII)


class Condition(NamedTuple):
    name: str
    """of a measure in NUMBERS"""
    comparison: str
    """>=, <=, >, < or ="""
    value: float


def conditions_of(text: str) -> list[Condition]:
    """The conditions of a text, separated by commas or `and`. Raises ValueError with what would be right."""
    parts = [part for part in re.split(r",|\band\b", text) if part.strip()]
    if len(parts) > MAX_CONDITIONS:
        raise ValueError(f"{len(parts)} conditions, and at most {MAX_CONDITIONS} are read")
    return [_condition(part) for part in parts]


def _condition(text: str) -> Condition:
    found = _CONDITION.fullmatch(text)
    if found is None:
        raise ValueError(
            f"{text.strip()[:80]!r} is no condition: write a number's name, one of >= <= > < = and a value, "
            "for example relation_lift >= 5"
        )
    name, comparison, value, percent = found.groups()
    if name not in NUMBERS:
        raise ValueError(unknown_name("number", name, NUMBERS))
    try:
        number = float(value) / (100 if percent else 1)
    except ValueError:
        raise ValueError(f"{value[:80]!r} is no number") from None
    if abs(number) > 1e37:
        raise ValueError(f"{value[:80]} is larger than any number of a feature")
    return Condition(name, comparison, number)
