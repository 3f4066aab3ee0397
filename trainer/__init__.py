"""The trainer: harvest activations, fit dictionaries, evaluate them, write checkpoints. `train` is the door."""

from trainer.plan import Plan
from trainer.recipes import RECIPES, Recipe, RecipeError, recipe
from trainer.training import train

__all__ = ["RECIPES", "Plan", "Recipe", "RecipeError", "recipe", "train"]
