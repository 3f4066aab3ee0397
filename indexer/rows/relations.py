"""Nearest features of a dictionary in its own layer and in the neighbouring ones, and features that fire
together.
"""

from collections.abc import Sequence

from torch import Tensor

from indexer.counts.coactivation import matches
from indexer.dictionaries import IdentifiedCheckpoint, LayerNeighbours, layer_neighbours
from indexer.geometry import neighbours
from indexer.rows.analysis import CountedModel
from lexiscope.anchors import NearestTokens

NEAREST_ACROSS = 3
"""Nearest features kept in each neighbouring layer."""

Pairs = list[tuple[list[int], list[float]]]
"""(indices, scores) of each feature"""


class _DirectionCache:
    """Unit decoder rows, read once for each dictionary while it or a neighbour needs them."""

    def __init__(self, members: Sequence[IdentifiedCheckpoint]) -> None:
        self._members = members
        self._held: dict[int, Tensor] = {}

    def keep(self, needed: set[int]) -> None:
        """Drop all but those of the dictionaries `needed`."""
        self._held = {at: directions for at, directions in self._held.items() if at in needed}

    def __call__(self, at: int) -> Tensor:
        if at not in self._held:
            self._held[at] = self._members[at].load_dictionary().directions
        return self._held[at]


class Relations:
    """Call with the dictionaries' indices in ascending order of layer: each is then read once."""

    def __init__(self, counted: CountedModel) -> None:
        self._counted = counted
        self._neighbours = layer_neighbours(counted.members)
        self._directions = _DirectionCache(counted.members)

    def of_layers(self, at: int) -> LayerNeighbours:
        return self._neighbours[at]

    def __call__(self, at: int) -> dict[str, Pairs]:
        """By the beginning of the columns' names: neighbour, previous, next, previous_coactive,
        next_coactive.
        """
        around, counts = self._neighbours[at], self._counted.state.dictionaries
        d_sae = self._counted.members[at].d_sae
        self._directions.keep({at, *(other for other in around if other is not None)})
        own, live = self._directions(at), self._counted.live(at)
        alive = live.nonzero().squeeze(1)
        near = neighbours(own[alive], own, among=alive, itself=True)
        relations = {"neighbour": relation_pairs(near, alive, d_sae)}
        for name, other in around._asdict().items():
            if other is None:
                relations |= {name: no_pairs(d_sae), f"{name}_coactive": no_pairs(d_sae)}
                continue
            among = self._counted.live(other).nonzero().squeeze(1)
            near = neighbours(own[alive], self._directions(other), among=among, limit=NEAREST_ACROSS)
            relations[name] = relation_pairs(near, alive, d_sae)
            relations[f"{name}_coactive"] = matches(counts[at].coactive, counts[other].coactive, d_sae)
        return relations


def no_pairs(d_sae: int) -> Pairs:
    return [([], [])] * d_sae


def relation_pairs(near: NearestTokens, features: Tensor, d_sae: int) -> Pairs:
    """The neighbours of `features`, spread over all d_sae features (empty elsewhere)."""
    pairs = no_pairs(d_sae)
    columns = (features.tolist(), near.tokens.tolist(), near.cosines.tolist())
    for feature, indices, cosines in zip(*columns, strict=True):
        pairs[feature] = (indices, [round(cosine, 4) for cosine in cosines])
    return pairs
