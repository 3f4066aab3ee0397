"""What changing the residual stream after one layer does to the cross-entropy of passages.

A change is a function of the stream at positions and the tokens that they stand on. Position 0 and attention
sinks stay what they are.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lexiscope.anchors import OUTLIER
from lexiscope.dictionary import Dictionary
from lexiscope.language_model import LanguageModel, Patch
from lexiscope.metrics import cross_entropy
from lexiscope.text import batches
from studies.inputs import ENCODED


class Positions(NamedTuple):
    """Where the positions of a stream stand, passage after passage."""

    tokens: Tensor
    """[n]"""
    passage: Tensor
    """[n] ascending"""


Change = Callable[[Tensor, Positions], Tensor]
"""The stream x [n, d] of positions [n] → what it becomes [n, d]."""


def unchanged(x: Tensor, at: Positions) -> Tensor:
    return x


def added(vector: Tensor) -> Change:
    """Add vector [d] at every position."""
    return lambda x, at: x + vector


def adding(vector: Tensor) -> Patch:
    """The same while the model writes, for `LanguageModel.stream`: position 0 of the prompt stays."""

    def patch(x: Tensor) -> Tensor:
        if x.shape[1] == 1:
            return x + vector
        return torch.cat([x[:, :1], x[:, 1:] + vector], 1)

    return patch


def gated(change: Change, opens: Callable[[Tensor, Positions], Tensor]) -> Change:
    """Change a passage from the first position on at which `opens` (x, positions) → [n] bool holds."""

    def conditional(x: Tensor, at: Positions) -> Tensor:
        places = torch.arange(len(x))
        n = int(at.passage.max()) + 1 if len(x) else 0
        first = torch.full((n,), len(x)).scatter_reduce_(
            0, at.passage, torch.where(opens(x, at), places, len(x)), "amin"
        )
        return torch.where((places >= first[at.passage])[:, None], change(x, at), x)

    return conditional


def clamped(dictionary: Dictionary, values: Tensor) -> Change:
    """Where a feature is active it takes its value of `values` [d_sae], NaN for those that keep their own;
    what the dictionary does not explain stays.
    """

    def change(x: Tensor, at: Positions) -> Tensor:
        code = dictionary.encode(x, at.tokens)
        given = values[code.indices]
        moved = torch.where((code.values != 0) & ~given.isnan(), given - code.values, 0.0)
        return x + torch.einsum("nk,nkd->nd", moved, dictionary.W_dec[code.indices])

    return change


@torch.inference_mode()
def losses(
    model: LanguageModel,
    layer: int,
    found: Sequence[np.ndarray],
    changes: Mapping[str, Change],
    *,
    first: Sequence[int] | None = None,
) -> dict[str, Tensor]:
    """{change: [passages] mean nats of a token} of passages of token ids, from the token at `first`
    [passages] on, the third unless given; sinks are positions whose norm is above OUTLIER medians of their
    batch.
    """
    out = {name: torch.zeros(len(found)) for name in changes}
    for batch in batches(found, tokens=ENCODED):
        tokens = batch.tokens.to(model.device)
        x = model.read(tokens, [layer])[layer].float()
        norms = x.norm(dim=-1)
        inside = batch.mask.to(x.device)
        moved = inside & (norms <= OUTLIER * norms[inside].median())
        judged = (batch.next_tokens >= 0) & batch.mask
        if first is not None:
            start = torch.tensor([first[passage] for passage in batch.passages])
            judged &= torch.arange(judged.shape[1])[None] >= start[:, None] - 1
        row = torch.arange(len(tokens))[:, None].expand_as(judged)
        at, rows = Positions(tokens[moved], row[moved]), row[judged]
        for name, change in changes.items():
            after = x.clone()
            after[moved] = change(x[moved], at)
            logits = model.logits_from(tokens, layer, after)
            nats = cross_entropy(logits[judged], tokens[:, 1:][judged[:, :-1]]).cpu()
            sums = torch.zeros(len(tokens)).index_add_(0, rows, nats)
            out[name][batch.passages] = sums / judged.sum(1).clamp_min(1)
    return out


def direction(dictionary: Dictionary, features: Tensor, weights: Tensor) -> Tensor:
    """[d] of norm 1: the sum of the unit rows of features [m] by weights [m]."""
    return F.normalize(weights @ dictionary.directions[features].float(), dim=0)
