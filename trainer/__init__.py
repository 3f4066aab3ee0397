"""The trainer: harvest activations, fit dictionaries, evaluate them, write checkpoints. `train` is the door."""

from trainer.recipes import RECIPES, Recipe, RecipeError, recipe
from trainer.training import Plan, train

__all__ = ["RECIPES", "Plan", "Recipe", "RecipeError", "recipe", "train"]
