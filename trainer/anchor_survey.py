"""Which anchors fit a layer: a cheap comparison that trains nothing anchored (docs/method.md#anchor-sets).

A plain dictionary is trained for a few steps on the layer's sample; each anchor set is judged by how near its
anchors are to that dictionary's live directions, weighted by firings, above what random directions of equal
covariance reach.
"""

from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F

from lexiscope.anchor_sets import ANCHOR_SETS, CONTROLS, Fitness, bake_off
from lexiscope.language_model import LanguageModel
from trainer.activations.harvest import Harvest
from trainer.architectures import BAKE_OFF, RESIDUAL_ANCHORS, Config
from trainer.architectures.topk import TopKArchitecture, TopKConfig
from trainer.initialise import AnchorSources, Start
from trainer.step import Training

STEPS = 40


class Survey(NamedTuple):
    best: str
    found: dict[str, Fitness]
    """by set; controls are among them, and are never chosen"""


class ChosenAnchors(NamedTuple):
    config: Config
    """with an anchor set, where it had auto"""
    sources: AnchorSources | None
    """what the set is made from; None where the sample is enough"""


def anchor_sources(model: LanguageModel, harvest: Harvest, layer: int) -> AnchorSources:
    """Costs one pass of the model over its vocabulary."""
    layout = harvest.layout
    return AnchorSources(layout.previous, layout.following, model.unembedding(), model.unigram_states(layer))


def survey(
    model: LanguageModel,
    harvest: Harvest,
    layer: int,
    sources: AnchorSources,
    *,
    k: int,
    width: int,
    seed: int = 0,
) -> Survey:
    """Every anchor set's fitness at a layer."""
    activations = harvest.at(layer)
    batch = min(2048, len(activations.tokens) // 2)
    plain = TopKConfig(name="plain", k=k, batch=batch, restarts=0, aux_k=0)
    start = Start(
        activations.x,
        activations.tokens,
        embedding=model.embedding,
        d_sae=width,
        seed=seed,
        sources=sources,
    )
    training = Training(TopKArchitecture(plain, start), start.random, steps=STEPS)
    training.over(activations)
    firings = torch.bincount(training.recent_firings()[0].long(), minlength=width)
    live = firings > 0
    directions = F.normalize(training.architecture.parameters["decoder"].detach()[live], dim=-1)
    found = bake_off(directions, firings[live], start.material, list(ANCHOR_SETS))
    return Survey(
        max((name for name in found if name not in CONTROLS), key=lambda name: found[name].excess), found
    )


def choose_anchors(
    config: Config, model: LanguageModel, harvest: Harvest, layer: int, *, width: int, seed: int
) -> ChosenAnchors:
    """The config with its anchor set chosen by a survey where it has auto, and what that set is made from."""
    if config.anchors not in RESIDUAL_ANCHORS:
        return ChosenAnchors(config, None)
    sources = anchor_sources(model, harvest, layer)
    if config.anchors == BAKE_OFF:
        k = getattr(config, "k", TopKConfig().k)
        best = survey(model, harvest, layer, sources, k=k, width=width, seed=seed).best
        config = replace(config, anchors=best)
    return ChosenAnchors(config, sources)
