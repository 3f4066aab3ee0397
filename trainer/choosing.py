"""Which anchors fit a layer: a cheap bake-off that trains nothing anchored (METHOD.md §4 item 4).

A plain dictionary is trained for a few steps on the layer's sample; each set is judged by how near its
anchors are to that dictionary's live directions, weighted by firings, above what random directions of equal
covariance reach.
"""

from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F

from lexiscope.anchor_sets import ANCHOR_SETS, CONTROLS, Fitness, bake_off
from lexiscope.language_model import LanguageModel
from trainer.fitting import Fit
from trainer.harvest import Harvest
from trainer.loop import run
from trainer.recipes import BAKE_OFF, RECIPES, Recipe
from trainer.start import Surroundings, centring, material

STEPS = 40
NEEDS_SURROUNDINGS = ("following", "previous", "unembedding", "unigram", BAKE_OFF)


class Survey(NamedTuple):
    best: str
    found: dict[str, Fitness]
    """by set; controls are among them, and are never chosen"""


def surroundings(model: LanguageModel, harvest: Harvest, layer: int) -> Surroundings:
    """Costs one pass of the model over its vocabulary."""
    return Surroundings(harvest.previous, harvest.following, model.unembedding(), model.unigram_states(layer))


def survey(
    model: LanguageModel,
    harvest: Harvest,
    layer: int,
    around: Surroundings,
    *,
    k: int,
    width: int,
    seed: int = 0,
) -> Survey:
    """Every anchor set's fitness at a layer."""
    x, tokens = harvest.activations[layer], harvest.tokens
    batch = min(2048, len(tokens) // 2)
    plain = replace(RECIPES["plain"], k=k, batch=batch, restarts=0, aux_k=0)
    fit = Fit(plain, x, tokens, embedding=model.embedding, d_sae=width, seed=seed)
    run(fit, steps=STEPS)
    fired = torch.cat([features[features >= 0] for features, _ in fit.recent])
    firings = torch.bincount(fired.long(), minlength=width)
    live = firings > 0
    directions = F.normalize(fit.weights.decoder[live], dim=-1)
    made_from = material(x, tokens, centring(x), embedding=model.embedding, around=around, seed=seed)
    found = bake_off(directions, firings[live], made_from, list(ANCHOR_SETS))
    return Survey(
        max((name for name in found if name not in CONTROLS), key=lambda name: found[name].excess), found
    )


def settled(
    recipe: Recipe, model: LanguageModel, harvest: Harvest, layer: int, *, width: int, seed: int
) -> tuple[Recipe, Surroundings | None]:
    """The recipe with its anchor set chosen where it asks for a bake-off, and what that set is made from."""
    if recipe.anchors not in NEEDS_SURROUNDINGS:
        return recipe, None
    around = surroundings(model, harvest, layer)
    if recipe.anchors == BAKE_OFF:
        recipe = replace(
            recipe, anchors=survey(model, harvest, layer, around, k=recipe.k, width=width, seed=seed).best
        )
    return recipe, around
