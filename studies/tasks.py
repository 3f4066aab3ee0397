"""Pairs of prompts that differ in one word, with the next token that each asks for."""

from itertools import permutations, product
from random import Random
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from lexiscope.language_model import LanguageModel
from studies.study import StudyError

Task = Literal["indirect-object", "agreement"]
PEOPLE = "Mary John Tom James Anna Peter Sarah David Jane Paul Kate Henry Alice George Emma Jack".split()
PLACES = ("the store", "the house", "the garden", "the school")
NOUNS = (
    "man:men woman:women boy:boys girl:girls king:kings soldier:soldiers child:children lady:ladies "
    "horse:horses dog:dogs tree:trees house:houses book:books friend:friends"
).split()
PLURALS = ("The {} in the room", "At night the {}", "And then the {}")


class Pair(NamedTuple):
    """Two prompts of one length; token ids [n], BOS first."""

    clean: Tensor
    corrupt: Tensor
    answer: int
    """the next token that the clean prompt asks for"""
    wrong: int
    """the one that the corrupt prompt asks for"""


def pairs_of(model: LanguageModel, task: Task, n: int, *, seed: int) -> list[Pair]:
    """n pairs of a task, of the words that are one token here. Raises StudyError where those are too few."""
    if task == "indirect-object":
        texts = [
            (template.format(c=c, d=d), template.format(c=d, d=c), f" {a}", f" {b}")
            for (a, b), place in product(permutations(PEOPLE, 2), PLACES)
            for template in [f"When {a} and {b} went to {place}, {{d}} gave a drink to"]
            for c, d in [(a, b)]
        ]
    else:
        texts = [
            (template.format(first), template.format(second), answer, wrong)
            for noun, template in product(NOUNS, PLURALS)
            for one, many in [noun.split(":")]
            for first, second, answer, wrong in [(one, many, " was", " were"), (many, one, " were", " was")]
        ]
    found = [pair for each in texts if (pair := _pair(model, *each)) is not None]
    if len(found) < n:
        raise StudyError(
            f"The task {task!r} needs {n} pairs whose words are single tokens; {model.id} has {len(found)}."
        )
    return Random(seed).sample(found, n)


def _pair(model: LanguageModel, clean: str, corrupt: str, answer: str, wrong: str) -> Pair | None:
    prompts = [torch.tensor([model.bos, *model.tokenise(text)]) for text in (clean, corrupt)]
    ends = [model.tokenise(text) for text in (answer, wrong)]
    if len(prompts[0]) != len(prompts[1]) or any(len(end) != 1 for end in ends):
        return None
    if int((prompts[0] != prompts[1]).sum()) != 1:
        return None
    return Pair(prompts[0], prompts[1], ends[0][0], ends[1][0])
