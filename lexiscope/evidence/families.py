"""Which tokens are related to a name, and which are as frequent: what its evidence is compared with."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lexiscope.evidence.words import ENDINGS
from lexiscope.largest import Columns

NEAREST, VARIANTS = 20, 6
FAMILY = 1 + NEAREST + VARIANTS
"""Tokens of a family, at most."""


def families(
    embedding: Tensor, folded: list[str], *, nearest: int = NEAREST, variants: int = VARIANTS
) -> Tensor:
    """[vocab, 1 + nearest + variants] int32 each token's family: itself, the nearest by raw W_E, case and
    space variants, inflections.

    Inflections are tokens whose folded spelling adds or drops one of s, es, ed, d, ing, ly, 's. Padded with
    −1.
    """
    unit = F.normalize(embedding - embedding.mean(0), dim=-1)
    near = Columns(unit).largest(unit, nearest + 1).indices
    return torch.cat([near, _variants(folded, variants).to(near)], 1).int()


def _variants(folded: list[str], n: int) -> Tensor:
    """[vocab, n] other tokens of the same spelling or an inflection of it; padded with −1."""
    by_spelling: dict[str, list[int]] = {}
    for token, spelling in enumerate(folded):
        by_spelling.setdefault(spelling, []).append(token)
    rows = []
    for token, spelling in enumerate(folded):
        kin: list[int] = []
        for related in _inflections(spelling):
            kin += [other for other in by_spelling.get(related, ()) if other != token]
        rows.append((kin + [-1] * n)[:n])
    return torch.tensor(rows).view(len(folded), n)


def _inflections(spelling: str) -> list[str]:
    """The spelling itself, and longer and shorter ones."""
    if len(spelling) <= 2:
        return [spelling] if spelling else []
    longer = [spelling + ending for ending in ENDINGS]
    shorter = [spelling[: -len(e)] for e in ENDINGS if spelling.endswith(e) and len(spelling) - len(e) > 2]
    return [spelling, *longer, *shorter]


def matched_controls(counts: Tensor, *, draws: int = 4, seed: int = 0) -> Tensor:
    """[vocab, draws] for each token, other tokens of like frequency: ranks within ±5 % (at least ±10 places),
    never itself.
    """
    counts = counts.cpu()  # drawn on the CPU, so that every device has the same
    order = counts.argsort(descending=True, stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order))
    reach = (rank.float() * 0.05).clamp_min(10)
    generator = torch.Generator().manual_seed(seed)
    offset = (torch.rand(len(order), draws, generator=generator) * reach[:, None]).ceil()
    sign = torch.randint(0, 2, offset.shape, generator=generator) * 2 - 1
    place = (rank[:, None] + offset * sign).long()
    last = len(order) - 1
    place = torch.where(place < 0, -place, torch.where(place > last, 2 * last - place, place)).clamp(0, last)
    place = torch.where(place == rank[:, None], (place + 1) % len(order), place)
    return order[place]
