"""Vocabulary anchors: one vector per token in a layer's activation space, the cones that rows are held in,
and names by the nearest anchor.

All vectors here are in the centred space of the hook point (the layer's mean is subtracted), so a cosine is
between deviations from the mean. Cosine ≥ 0.8 counts as aligned (docs/method.md#live-and-aligned).
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lexiscope.errors import TextError
from lexiscope.largest import Columns

ALIGNED = 0.8
BUCKETS = ((0.8, "strong"), (0.5, "medium"), (0.3, "weak"))
CHUNK = 2048
OUTLIER = 4.0
"""Positions whose norm is above this many medians are left out of what anchors are fitted from (attention
sinks).
"""
EDGE = 2e-3
"""A row whose cosine is within this of its cone's rests on its edge."""


def bucket(cosine: float) -> str:
    """strong ≥ 0.8, medium ≥ 0.5, weak ≥ 0.3, else none."""
    return next((name for least, name in BUCKETS if cosine >= least), "none")


class TokenSums:
    """Streaming sums of the residual stream by current token: what anchors are fitted from."""

    def __init__(self, vocab_size: int, d_in: int) -> None:
        self.sums = torch.zeros(vocab_size, d_in)
        self.counts = torch.zeros(vocab_size)

    def add(self, tokens: Tensor, x: Tensor) -> None:
        """tokens [n], x [n, d_in] centred."""
        self.sums.index_add_(0, tokens, x.float())
        self.counts += torch.bincount(tokens, minlength=len(self.counts)).float()


def transport(embedding: Tensor, sums: TokenSums, *, ridge: float = 1e-2) -> Tensor:
    """[vocab, d_in] the embedding carried to the layer by one ridge map, fitted on the mean states weighted
    by count.

    Defined for every token, seen or not: the Tuned Lens (arXiv 2303.08112) in the other direction. `ridge` is
    relative to the mean eigenvalue of the weighted embedding covariance. Raises TextError where the tokens
    that occur do not differ.
    """
    centred = embedding - (sums.counts @ embedding) / sums.counts.sum()
    weighted = centred * sums.counts[:, None]
    gram = centred.T @ weighted
    scale = gram.diagonal().mean()
    if (sums.counts > 0).sum() < 2 or not scale > 0:
        raise TextError(
            "Every position of the text has the same token: anchors are fitted on how tokens differ. Give a"
            " text of several words."
        )
    gram += torch.eye(len(gram)) * (ridge * scale)
    return centred @ torch.linalg.solve(gram, centred.T @ sums.sums)


def class_mean_anchors(embedding: Tensor, sums: TokenSums, *, prior: float = 4.0) -> Tensor:
    """[vocab, d_in] mean state by current token, shrunk to the transported embedding with the weight of
    `prior` occurrences.
    """
    return (sums.sums + prior * transport(embedding, sums)) / (sums.counts[:, None] + prior)


def exchanged_rows(rows: Tensor, seen: Tensor, *, seed: int) -> Tensor:
    """[vocab, d] rows of which those of the tokens `seen` [n] are exchanged among each other: a control that
    knows other tokens.
    """
    order = seen[torch.randperm(len(seen), generator=torch.Generator().manual_seed(seed))]
    exchanged = rows.clone()
    exchanged[order] = rows[order.roll(1)]
    return exchanged


def rows_per_token(counts: Tensor, rows: int, *, power: float = 0.7) -> Tensor:
    """[vocab] how many dictionary rows each token gets: proportional to count^power, adding up to `rows`.

    Tokens that never occur get none; fractional parts are rounded by largest remainder.
    """
    share = counts.double().pow(power) * (counts > 0)
    exact = share / share.sum() * rows
    given = exact.floor()
    missing = int(rows - given.sum())
    given[(exact - given).topk(missing).indices] += 1
    return given.long()


def into_cones(directions: Tensor, anchors: Tensor, cosine: float) -> Tensor:
    """Unit rows [n, d] moved, each as little as possible, to within `cosine` of its unit anchor [n, d]."""
    unit = F.normalize(directions, dim=-1)
    along = (unit * anchors).sum(-1, keepdim=True)
    across = F.normalize(unit - along * anchors, dim=-1)
    bent = cosine * anchors + (1 - cosine**2) ** 0.5 * across
    return torch.where(along < cosine, bent, unit)


def stay_in_cones(
    gradient: Tensor, directions: Tensor, anchors: Tensor, assigned: Tensor, cosine: float
) -> None:
    """Remove, in place, the part of gradient [n, d] that would push unit rows [n, d] on the edge of their
    cone out of it.

    Otherwise an optimiser with momentum spends its steps and its second moments on a move that the projection
    undoes. `anchors` [vocab, d] are unit; row i belongs to anchors[assigned[i]].
    """
    for part in torch.arange(len(gradient), device=gradient.device).split(512):  # chunks that stay in cache
        at = slice(int(part[0]), int(part[-1]) + 1)
        unit, anchor, g = directions[at], anchors[assigned[at]], gradient[at]
        along = (unit * anchor).sum(-1, keepdim=True)
        inward = F.normalize(anchor - along * unit, dim=-1)
        outward = (g * inward).sum(-1, keepdim=True)  # descent moves against the gradient
        g -= torch.where((along <= cosine + EDGE) & (outward > 0), outward, 0) * inward


class NearestTokens(NamedTuple):
    """The nearest tokens of n directions, best first."""

    tokens: Tensor
    """[n, m] token ids; column 0 is the name"""
    cosines: Tensor
    """[n, m]"""


def nearest_embedding(directions: Tensor, embedding: Tensor) -> Tensor:
    """[n] cosine of unit directions [n, d] to the nearest row of W_E [vocab, d_e], centred; 0 where d_e is
    another width.
    """
    if embedding.shape[1] != directions.shape[1]:
        return torch.zeros(len(directions), device=directions.device)
    return nearest_tokens(directions, embedding - embedding.mean(0), 1).cosines[:, 0]


def nearest_tokens(directions: Tensor, anchors: Tensor, m: int = 6) -> NearestTokens:
    """The m nearest anchors [vocab, d] of each direction [n, d], by cosine."""
    found = Columns(F.normalize(anchors, dim=-1)).largest(F.normalize(directions, dim=-1), m)
    return NearestTokens(found.indices, found.values.clamp(-1, 1))


def own_cosine(directions: Tensor, anchors: Tensor, tokens: Tensor) -> Tensor:
    """[n] cosine of each direction [n, d] to the anchor of its token [n]."""
    return F.cosine_similarity(directions, anchors[tokens], dim=-1).clamp(-1, 1)


def random_directions(covariance: Tensor, n: int, *, seed: int = 0) -> Tensor:
    """[n, d] Gaussian directions with the given covariance [d, d]: the baseline of a nearest-anchor
    cosine.
    """
    values, vectors = torch.linalg.eigh(covariance)
    noise = torch.randn(n, len(values), generator=torch.Generator().manual_seed(seed))
    return (noise * values.clamp_min(0).sqrt()) @ vectors.T


class Phrases(NamedTuple):
    """Up to three tokens whose anchors together best approximate each of n directions."""

    tokens: Tensor
    """[n, 3] token ids in order of choice, −1 where no further token helps"""
    cosines: Tensor
    """[n] cosine of the direction to the best non-negative combination"""


def phrases(directions: Tensor, anchors: Tensor, first: Tensor, length: int = 3) -> Phrases:
    """Non-negative orthogonal matching pursuit over the anchors [vocab, d], starting from each direction's
    name `first` [n].
    """
    unit = F.normalize(anchors, dim=-1)
    columns = Columns(unit)
    tokens, cosines = [], []
    for part, name in zip(directions.split(CHUNK), first.split(CHUNK), strict=True):
        target = F.normalize(part, dim=-1)
        chosen = name[:, None]
        fitted, best = _non_negative_fit(target, unit[chosen])
        for _ in range(length - 1):
            candidate = columns.largest(target - fitted, 1).indices
            trial = torch.cat([chosen.clamp_min(0), candidate], 1)
            new_fit, new_cosine = _non_negative_fit(target, unit[trial])
            better = (new_cosine > best + 1e-3) & (chosen[:, -1] >= 0)
            fitted = torch.where(better[:, None], new_fit, fitted)
            best = torch.where(better, new_cosine, best)
            chosen = torch.cat([chosen, torch.where(better[:, None], candidate, -1)], 1)
        tokens.append(chosen)
        cosines.append(best)
    return Phrases(torch.cat(tokens), torch.cat(cosines))


def _non_negative_fit(target: Tensor, atoms: Tensor) -> tuple[Tensor, Tensor]:
    """Least squares of target [n, d] on atoms [n, m, d], negative weights set to 0: (fit [n, d], its cosine
    [n]).
    """
    gram = atoms @ atoms.mT + 1e-6 * torch.eye(atoms.shape[1])
    weights = torch.linalg.solve(gram, atoms @ target[..., None]).clamp_min(0)
    fit = (weights * atoms).sum(1)
    return fit, F.cosine_similarity(fit, target, dim=-1).clamp(-1, 1)
