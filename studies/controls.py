"""What studies compare with: other features that fire as often, and a dictionary of random directions."""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from lexiscope.dictionary import Dictionary


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


def random_dictionary(dictionary: Dictionary, x: Tensor, *, seed: int) -> Dictionary:
    """The same selection over random unit directions of the centred stream x [n, d], tied, without dense path
    and look-up.
    """
    draw = torch.Generator().manual_seed(seed)
    rows = F.normalize(torch.randn(dictionary.d_sae, x.shape[1], generator=draw), dim=-1)
    mean = x.mean(0)
    return replace(
        dictionary,
        W_enc=rows.T.contiguous(),
        b_enc=-(rows @ mean),
        W_dec=rows,
        b_dec=mean,
        dense_in=None,
        dense_out=None,
        lookup=None,
        encoder=None,
    )
