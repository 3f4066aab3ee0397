"""What studies compare with: other features that fire as often, and a dictionary of random directions."""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from lexiscope.adaptive_selection import Sparsemax, TwoSided
from lexiscope.dictionary import Dictionary
from lexiscope.selection import Selection, Threshold
from lexiscope.sparse_code import SparseCode

SAMPLE = 512
"""Positions on which the level of a random dictionary's selection is fitted."""


def drawn_alike(firings: Tensor, features: Tensor, *, seed: int) -> Tensor:
    """[≤ m] other features at random, one for each of features [m], of those that fire about as often:
    firings [d_sae] of all.
    """
    ascending = firings.argsort(stable=True)
    order: list[int] = ascending[firings[ascending] > 0].tolist()
    place = {feature: at for at, feature in enumerate(order)}
    draw, taken = torch.Generator().manual_seed(seed), set(features.tolist())
    chosen: list[int] = []
    for feature in features.tolist():
        near: list[int] = []
        reach, at = 8, place.get(feature, 0)
        while not near and reach < 2 * len(order):
            near = [each for each in order[max(0, at - reach) : at + reach + 1] if each not in taken]
            reach *= 2
        if near:
            chosen.append(near[int(torch.randint(len(near), (1,), generator=draw))])
            taken.add(chosen[-1])
    return torch.tensor(chosen, dtype=torch.long)


def active_of(code: SparseCode) -> float:
    """Active features a token."""
    return float((code.values != 0).sum(-1).float().mean())


def random_dictionary(dictionary: Dictionary, x: Tensor, *, active: float, seed: int) -> Dictionary:
    """The same selection over random unit directions of the centred stream x [n, d], tied, without dense
    path, look-up and normalisation. Where the scale of pre-activations decides how many features are active,
    its level is such that `active` are on x.
    """
    draw = torch.Generator().manual_seed(seed)
    rows = F.normalize(torch.randn(dictionary.d_sae, x.shape[1], generator=draw), dim=-1)
    mean = x.mean(0)
    spread = torch.linspace(0, len(x) - 1, min(SAMPLE, len(x))).long()
    return replace(
        dictionary,
        selection=_as_active(dictionary.selection, (x[spread] - mean) @ rows.T, active),
        W_enc=rows.T.contiguous(),
        b_enc=-(rows @ mean),
        W_dec=rows,
        b_dec=mean,
        dense_in=None,
        dense_out=None,
        lookup=None,
        normalise="none",
        encoder=None,
    )


def _as_active(selection: Selection, pre: Tensor, active: float) -> Selection:
    """The selection at the level at which `active` features a token are, of pre-activations pre
    [n, d_sae].
    """
    wanted = round(active * len(pre))
    match selection:
        case Threshold():
            return Threshold(torch.full_like(pre[0], _level(pre.flatten(), wanted)))
        case TwoSided():
            return TwoSided(torch.full_like(pre[0], _level(pre.abs().flatten(), wanted)))
        case Sparsemax():  # a token's k-th score is in the support where its gap is below 1 / scale
            ordered = pre.sort(dim=-1, descending=True).values
            place = torch.arange(1, pre.shape[1] + 1)
            gaps = (ordered.cumsum(-1) - place * ordered)[ordered > 0]
            return Sparsemax(1 / max(-_level(-gaps, wanted), 1e-9))
    return selection


def _level(values: Tensor, n: int) -> float:
    """What n of values [m] are above."""
    return float(values.topk(min(n, len(values) - 1) + 1).values[-1])
