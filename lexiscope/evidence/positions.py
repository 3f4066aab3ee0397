"""The tokens at, after and before each position of a text: what a firing is compared with."""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

NEAR = 32
"""`reads_near` looks this many tokens back."""


class PositionTokens(NamedTuple):
    """The tokens around n positions of a text."""

    current: Tensor
    """[n] the token at each position"""
    following: Tensor
    """[n] the next token, −1 at a passage's end"""
    before: Tensor
    """[n, NEAR] the tokens before, −1 where the passage had not begun"""


def position_tokens(tokens: Tensor, following: Tensor, mask: Tensor) -> PositionTokens:
    """The `PositionTokens` of every masked position of a batch: tokens, following and mask are [batch,
    positions].
    """
    padded = F.pad(tokens, (NEAR, 0), value=-1)
    before = padded.unfold(1, NEAR, 1)[:, : tokens.shape[1]]
    return PositionTokens(tokens[mask], following[mask], before[mask])
