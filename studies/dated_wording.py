"""Sentences about the past that keep to what was known then, and the same ones with what came later, in two
domains that share neither subjects nor wording.
"""

from itertools import product
from random import Random
from typing import Literal, NamedTuple

import numpy as np

from lexiscope.language_model import LanguageModel
from studies.study import StudyError

Domain = Literal["business", "history"]
YEARS = ("1961", "1974", "1983", "1992", "1998", "2004")
OPENINGS: dict[Domain, tuple[str, tuple[str, ...]]] = {
    "business": (
        "In {year} the company {subject}.",
        (
            "opened a new factory",
            "sold its oldest shop",
            "built a small computer",
            "bought a film studio",
            "lost its first director",
            "made a cheap radio",
        ),
    ),
    "history": (
        "The news of {year} was that the {subject}.",
        (
            "king had left the city",
            "army had crossed the river",
            "team had a young captain",
            "ship had not come home",
            "party had chosen a leader",
            "church had burned down",
        ),
    ),
}
ENDINGS: dict[Domain, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "business": (
        (
            " At that time nobody knew what would follow.",
            " It was too early to say how it would end.",
            " With what was known then, all was open.",
        ),
        (
            " As we know today, it later became famous.",
            " Years later it would turn out to be a success.",
            " In the end it went on to win the market.",
        ),
    ),
    "history": (
        (
            " People still waited for the outcome.",
            " What it meant could not yet be told.",
            " So far there was no answer to that.",
        ),
        (
            " That was the first sign of the war that came.",
            " We now know that it was a mistake.",
            " It was to be the last time it happened.",
        ),
    ),
}


class Wording(NamedTuple):
    """Openings, each with an ending that is aware of the date and one that looks ahead."""

    aware: list[np.ndarray]
    """[n] token ids, BOS first"""
    ahead: list[np.ndarray]
    first: list[int]
    """[n] the position of the first token of both endings"""


def dated(model: LanguageModel, domain: Domain, n: int, *, seed: int) -> Wording:
    """n sentences of a domain, in both wordings (all of them where there are fewer). Raises StudyError where
    one is longer than the model's context.
    """
    template, subjects = OPENINGS[domain]
    every = list(product(YEARS, subjects, range(len(ENDINGS[domain][0]))))
    aware, ahead, first = [], [], []
    for year, subject, which in Random(seed).sample(every, min(n, len(every))):
        opening = [model.bos, *model.tokenise(template.format(year=year, subject=subject))]
        both = [np.array([*opening, *model.tokenise(ending[which])]) for ending in ENDINGS[domain]]
        if max(map(len, both)) > model.context_length:
            raise StudyError(
                f"A sentence of this study is {max(map(len, both))} tokens; {model.id} reads "
                f"{model.context_length}."
            )
        aware.append(both[0])
        ahead.append(both[1])
        first.append(len(opening))
    return Wording(aware, ahead, first)
