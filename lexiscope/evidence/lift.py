"""The token that a feature fires on far more than the text would have it."""

from typing import NamedTuple

import torch
from torch import Tensor


class HighestLift(NamedTuple):
    """The token each feature fires on with the most lift."""

    tokens: Tensor
    """[d_sae] −1 where the feature never fired"""
    hits: Tensor
    """[d_sae] firings on it"""


def highest_lift(
    features: Tensor, tokens: Tensor, counts: Tensor, firings: Tensor, token_counts: Tensor
) -> HighestLift:
    """The token t with the highest share(t) · log(share(t) / rate(t)): its part of KL(firing positions ‖
    text).

    Plain lift would always pick a token that occurs once in the text; the share as a weight prevents that.
    features, tokens and counts [pairs] are the distinct pairs of a feature with a token it fired on, and how
    often; firings [d_sae] all the firings of each feature; token_counts [vocab] the occurrences of each token
    in the same text. Of equal tokens the smallest id wins.
    """
    share = counts.double() / firings[features].clamp_min(1)
    rate = token_counts[tokens].double().clamp_min(1) / token_counts.sum().clamp_min(1)
    order = tokens.argsort(stable=True)
    order = order[(share * (share / rate).log())[order].argsort(descending=True, stable=True)]
    order = order[features[order].argsort(stable=True)]
    active, times = torch.unique_consecutive(features[order], return_counts=True)
    first = order[times.cumsum(0) - times]
    best, hits = torch.full_like(firings, -1, dtype=torch.long), torch.zeros_like(firings, dtype=torch.long)
    best[active], hits[active] = tokens[first], counts[first].long()
    return HighestLift(best, hits)


def lift_names(features: Tensor, tokens: Tensor, token_counts: Tensor, d_sae: int) -> Tensor:
    """[d_sae] the name of highest lift of each feature, −1 where it never fired.

    features and tokens [firings]: which feature fired, on which token; token_counts [vocab] as in
    `highest_lift`, over every position of the text that the firings are from, whether anything fired there or
    not.
    """
    keys, counts = torch.unique(features.long() * len(token_counts) + tokens.long(), return_counts=True)
    firings = torch.bincount(features, minlength=d_sae)
    return highest_lift(
        keys // len(token_counts), keys % len(token_counts), counts, firings, token_counts
    ).tokens
