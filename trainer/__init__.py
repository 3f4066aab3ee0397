"""The trainer: harvest activations, fit dictionaries, evaluate them, write checkpoints. `train` is the door."""

from trainer.evaluation import Candidate, Measured, check_candidates, measure
from trainer.plan import Plan, held_out_passages
from trainer.recipes import RECIPES, Recipe, RecipeError, recipe
from trainer.training import train

__all__ = [
    "RECIPES",
    "Candidate",
    "Measured",
    "Plan",
    "Recipe",
    "RecipeError",
    "check_candidates",
    "held_out_passages",
    "measure",
    "recipe",
    "train",
]
