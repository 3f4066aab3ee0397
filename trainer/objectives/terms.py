"""Terms of the loss that any recipe takes (`--set terms=NAME:WEIGHT`): scalar functions of the architecture,
the batch, its forward pass and the step.
"""

from collections.abc import Callable
from math import isfinite
from typing import TYPE_CHECKING

from torch import Tensor

from trainer.errors import RecipeError
from trainer.objectives.dictionary_terms import l1_over_l2, norm_match, off_support, orthogonality
from trainer.objectives.model_terms import downstream, kl

if TYPE_CHECKING:
    from trainer.activations.passages import TrainingBatch
    from trainer.architectures.base import Architecture, Pass, Step

Term = Callable[["Architecture", "TrainingBatch", "Pass", "Step"], Tensor]
TERMS: dict[str, Term] = {
    "kl": kl,
    "downstream": downstream,
    "off_support": off_support,
    "l1_l2": l1_over_l2,
    "orthogonality": orthogonality,
    "norm_match": norm_match,
}
"""name → the term, before its weight"""
MODEL_TERMS = frozenset({"kl", "downstream"})
"""those that run the language model, on whole passages"""


def term_weights(text: str) -> dict[str, float]:
    """{name: weight} of NAME:WEIGHT,NAME:WEIGHT. Raises RecipeError for an unknown term or a weight that is
    no finite number.
    """
    weights: dict[str, float] = {}
    for part in filter(None, text.split(",")):
        name, _, weight = part.partition(":")
        if name not in TERMS:
            raise RecipeError(f"There is no objective term '{name}'; there are {', '.join(TERMS) or 'none'}.")
        try:
            weights[name] = float(weight)
        except ValueError:
            weights[name] = float("nan")
        if not isfinite(weights[name]):
            raise RecipeError(f"The weight of '{name}' is '{weight}': write {name}:NUMBER.")
    return weights
