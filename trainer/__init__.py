"""The trainer: harvest activations, train dictionaries, evaluate them, write checkpoints. `train` does
all of it.
"""

from trainer.activations.harvest import harvest
from trainer.anchor_survey import Survey, anchor_sources, survey
from trainer.architectures import Config
from trainer.errors import RecipeError, TrainingDiverged
from trainer.evaluation import Candidate, Measured, check_candidates, measure
from trainer.plan import Plan, held_out_passages, held_out_rule
from trainer.presets import Recipe, configured, described, recipe, recipes
from trainer.run import train

__all__ = [
    "Candidate",
    "Config",
    "Measured",
    "Plan",
    "Recipe",
    "RecipeError",
    "Survey",
    "TrainingDiverged",
    "anchor_sources",
    "check_candidates",
    "configured",
    "described",
    "harvest",
    "held_out_passages",
    "held_out_rule",
    "measure",
    "recipe",
    "recipes",
    "survey",
    "train",
]
