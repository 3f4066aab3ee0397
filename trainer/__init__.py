"""The trainer: harvest activations, fit dictionaries, evaluate them, write checkpoints. `train` is the door."""

from trainer.choosing import Survey, surroundings, survey
from trainer.evaluation import Candidate, Measured, check_candidates, measure
from trainer.harvest import harvest
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
    "Survey",
    "check_candidates",
    "harvest",
    "held_out_passages",
    "measure",
    "paper_recipe",
    "recipe",
    "surroundings",
    "survey",
    "train",
    "train_paper_recipes",
]
