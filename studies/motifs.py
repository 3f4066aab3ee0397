"""Motifs of a circuit's graph: patterns of its strongest edges that are commoner than in graphs with the same
degrees.

Between two layers, a bi-fan is two earlier features that both act on the same two later ones; it is coherent
where the product of the four signs is positive, so that the two paths agree. Over three layers, a relay is an
edge followed by an edge. Fans of one feature follow from the degrees alone, which rewiring keeps, so they are
not counted (Milo et al. 2002, network motifs); for coherence signs are permuted instead, and for relays the
features in the middle.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

STRONG = 0.25
"""share of the edges between two layers, the largest by magnitude, that are the graph"""
REWIRED = 200
"""graphs of the control"""
SWITCHES = 10
"""of pairs of edges, an edge, in each of them"""


class Motif(NamedTuple):
    """A pattern with how often it occurs."""

    name: str
    times: float
    control: float
    """mean over rewired or permuted graphs"""
    z: float
    """(times − control) by the standard deviation of the control; 0 where it does not vary"""


def strong(weights: Tensor) -> Tensor:
    """[later, earlier] 1, −1 or 0: the sign of the strongest edges of weights [later, earlier]."""
    n = max(1, round(STRONG * weights.numel()))
    least = weights.abs().flatten().topk(n).values[-1]
    return weights.sign() * ((weights.abs() >= least) & (weights != 0))


def bi_fans(edges: Tensor) -> tuple[float, float]:
    """(bi-fans, those that are coherent) of signed edges [later, earlier]."""
    present, sign = edges.abs().double(), edges.double()
    # for two later features: earlier ones in common, and the sum of the products of their signs
    common, product = present @ present.T, sign @ sign.T
    upper = torch.ones_like(common).triu(1).bool()
    pairs, agree = (common * (common - 1) / 2)[upper], product[upper]
    same = (common[upper] + agree) / 2
    other = common[upper] - same
    coherent = same * (same - 1) / 2 + other * (other - 1) / 2
    return float(pairs.sum()), float(coherent.sum())


def rewired(edges: Tensor, draw: np.random.Generator) -> Tensor:
    """Signed edges [later, earlier] with every feature's degrees kept: pairs of edges exchange their ends
    where that makes no edge twice. Signs go with the later end.
    """
    out = edges.clone()
    places = [tuple(each) for each in out.nonzero().tolist()]
    for _ in range(SWITCHES * len(places)):
        one, two = draw.integers(len(places), size=2)
        (a, b), (c, d) = places[one], places[two]
        if a == c or b == d or out[a, d] != 0 or out[c, b] != 0:
            continue
        out[a, d], out[c, b] = out[a, b], out[c, d]
        out[a, b] = out[c, d] = 0
        places[one], places[two] = (a, d), (c, b)
    return out


def motifs(weights: Sequence[Tensor], *, seed: int) -> list[Motif]:
    """Motifs of the edges between each layer and the next, weights [later, earlier] of each pair."""
    draw = np.random.default_rng(seed)
    graphs = [strong(each) for each in weights]
    every = [bi_fans(each) for each in graphs]
    mixed = [[bi_fans(rewired(each, draw))[0] for each in graphs] for _ in range(REWIRED)]
    signs = [[bi_fans(_signs_permuted(each, draw))[1] for each in graphs] for _ in range(REWIRED)]
    found = [
        _motif("bi-fans", sum(each[0] for each in every), [sum(each) for each in mixed]),
        _motif("coherent bi-fans", sum(each[1] for each in every), [sum(each) for each in signs]),
    ]
    if len(graphs) > 1:
        chance = [
            relays([each[:, draw.permutation(each.shape[1])] for each in graphs]) for _ in range(REWIRED)
        ]
        found.append(_motif("relays", relays(graphs), chance))
    return found


def relays(graphs: Sequence[Tensor]) -> float:
    """Edges followed by an edge: of a feature in the middle, those that end at it times those that begin."""
    return sum(float(after.abs().sum(0) @ before.abs().sum(1)) for before, after in pairwise(graphs))


def _motif(name: str, count: float, control: Sequence[float]) -> Motif:
    mean, spread = float(np.mean(control)), float(np.std(control))
    return Motif(name, count, mean, (count - mean) / spread if spread > 0 else 0.0)


def _signs_permuted(edges: Tensor, draw: np.random.Generator) -> Tensor:
    out, at = edges.clone(), edges.nonzero(as_tuple=True)
    out[at] = edges[at][torch.from_numpy(draw.permutation(len(at[0])))]
    return out
