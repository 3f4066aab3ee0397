"""The trainer: harvest activations, fit dictionaries, evaluate them, write checkpoints. `train` is the door."""

from trainer.evaluation import Candidate, Measured, check_candidates, measure
from trainer.paper import PaperRecipe, paper_recipe
from trainer.paper_run import train_paper_recipes
from trainer.plan import Plan, held_out_passages
from trainer.recipes import RECIPES, Recipe, RecipeError, recipe
from trainer.training import train

__all__ = [
    "RECIPES",
    "Candidate",
    "Measured",
    "PaperRecipe",
    "Plan",
    "Recipe",
    "RecipeError",
    "check_candidates",
    "held_out_passages",
    "measure",
    "paper_recipe",
    "recipe",
    "train",
    "train_paper_recipes",
]
