"""Anchor sets: one vector per token in a layer's centred space, made in different ways behind one interface.

`ANCHOR_SETS[name](material)` gives anchors [vocab, d_in] of any norm: names and cones use their directions
alone. The last three are controls: vectors that carry no information about their tokens, to which rows align
just as well.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lexiscope.anchors import TokenSums, class_mean_anchors, nearest_tokens, random_directions, transport


class Material(NamedTuple):
    """Statistics of one layer that anchors are made from; residual streams are centred."""

    embedding: Tensor
    """[vocab, d_e] raw W_E"""
    current: TokenSums
    """states summed by the token they stand on"""
    covariance: Tensor
    """[d_in, d_in] of the residual stream"""
    following: TokenSums | None = None
    """states summed by the token that comes next"""
    previous: TokenSums | None = None
    """states summed by the token before"""
    unembedding: Tensor | None = None
    """[vocab, d_in] rows that read a token's logit out of the residual stream, the final norm's gain folded
    in
    """
    unigram: Tensor | None = None
    """[vocab, d_in] the state of each token alone after BOS"""
    seed: int = 0
    """of the controls"""


def _embedding(material: Material) -> Tensor:
    return material.embedding


def _centred(material: Material) -> Tensor:
    counts = material.current.counts
    return material.embedding - (counts @ material.embedding) / counts.sum()


def _transported(material: Material) -> Tensor:
    return transport(material.embedding, material.current)


def _class_mean(which: str) -> Callable[[Material], Tensor]:
    def anchors(material: Material) -> Tensor:
        return class_mean_anchors(material.embedding, _given(material, which))

    return anchors


def _unigram(material: Material) -> Tensor:
    states: Tensor = _given(material, "unigram")
    return states - states.mean(0)


def _unembedding(material: Material) -> Tensor:
    """Σ W_U: an unembedding row is a covector; times the covariance it is the pattern that it reads (Haufe
    et al. 2014).
    """
    rows: Tensor = _given(material, "unembedding")
    return (rows - rows.mean(0)) @ material.covariance


def _permuted(material: Material) -> Tensor:
    """The class means, each under the name of another token (a random cycle through the tokens that
    occur).
    """
    anchors = _class_mean("current")(material)
    seen = (material.current.counts > 0).nonzero().squeeze(1)
    shuffled = seen[torch.randperm(len(seen), generator=torch.Generator().manual_seed(material.seed))]
    permuted = anchors.clone()
    permuted[shuffled] = anchors[shuffled.roll(1)]
    return permuted


def _gaussian(material: Material) -> Tensor:
    """Gaussian vectors with the class means' own covariance."""
    anchors = _class_mean("current")(material)
    return random_directions(torch.cov(anchors.T), len(anchors), seed=material.seed)


def _rotated(material: Material) -> Tensor:
    """The class means under one random rotation: their cosines to each other stay, their positions
    in the space are lost.
    """
    anchors = _class_mean("current")(material)
    noise = torch.randn(
        anchors.shape[1], anchors.shape[1], generator=torch.Generator().manual_seed(material.seed)
    )
    return anchors @ torch.linalg.qr(noise).Q


def _given(material: Material, field: str) -> Any:
    value = getattr(material, field)
    if value is None:
        raise ValueError(f"These anchors need `{field}`, which was not collected.")
    return value


ANCHOR_SETS: dict[str, Callable[[Material], Tensor]] = {
    "current": _class_mean("current"),
    "following": _class_mean("following"),
    "previous": _class_mean("previous"),
    "transported": _transported,
    "unigram": _unigram,
    "unembedding": _unembedding,
    "embedding": _embedding,
    "centred": _centred,
    "permuted": _permuted,
    "gaussian": _gaussian,
    "rotated": _rotated,
}
"""Name → anchors. `current`, `following` and `previous` are mean states by token, shrunk to the transported
embedding.
"""

CONTROLS = ("permuted", "gaussian", "rotated")
DESCRIPTIONS = {
    "current": "mean state by current token, shrunk to the transported embedding",
    "following": "mean state by next token, shrunk to the transported embedding",
    "previous": "mean state by previous token, shrunk to the transported embedding",
    "transported": "embedding carried to the layer by one ridge map",
    "unigram": "state of the token alone after BOS, centred",
    "unembedding": "unembedding times the covariance of the residual stream",
    "embedding": "raw token embedding",
    "centred": "token embedding, centred by frequency",
    "permuted": "control: mean states under the names of other tokens",
    "gaussian": "control: Gaussian vectors of the mean states' covariance",
    "rotated": "control: mean states under a random rotation",
}


class Fitness(NamedTuple):
    """How well an anchor set names what a dictionary, trained without anchors, already holds."""

    live: float
    """mean nearest-anchor cosine over live features"""
    firing: float
    """the same, weighted by firings"""
    random: float
    """mean nearest-anchor cosine of random directions of the residual stream's covariance"""
    medium: float
    """share of live features with cosine ≥ 0.5"""

    @property
    def excess(self) -> float:
        """Firing-weighted cosine above chance: the rank in the bake-off."""
        return self.firing - self.random


def bake_off(directions: Tensor, firings: Tensor, material: Material, names: list[str]) -> dict[str, Fitness]:
    """The fitness of each named set for unit directions [n, d_in] of live features with their firings [n];
    trains nothing.

    A set that lives in another width than the residual stream (raw W_E of some models), or without its
    statistics, is left out.
    """
    weight = firings.double() / firings.sum()
    chance = F.normalize(random_directions(material.covariance, 2048, seed=material.seed), dim=-1)
    fitness: dict[str, Fitness] = {}
    for name in names:
        try:
            anchors = ANCHOR_SETS[name](material)
        except ValueError:
            continue
        if anchors.shape[1] != directions.shape[1]:
            continue
        cosines = nearest_tokens(directions, anchors, 1).cosines[:, 0].double()
        random = nearest_tokens(chance, anchors, 1).cosines.mean()
        medium = (cosines >= 0.5).double().mean()
        fitness[name] = Fitness(
            cosines.mean().item(), (cosines * weight).sum().item(), random.item(), medium.item()
        )
    return fitness
