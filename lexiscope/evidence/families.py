"""Which tokens are related to a name, and which are as frequent: what its evidence is compared with."""

import torch
import torch.nn.functional as F
from torch import Tensor


def families(embedding: Tensor, folded: list[str], *, nearest: int = 20, variants: int = 6) -> Tensor:
    """[vocab, 1 + nearest + variants] each token's family: itself, case and space variants, inflections,
    nearest by raw W_E.

    Inflections are tokens whose folded spelling adds or drops one of s, es, ed, d, ing, ly, 's. Padded with
    −1.
    """
    unit = F.normalize(embedding - embedding.mean(0), dim=-1)
    near = torch.cat(
        [(part @ unit.T).topk(min(nearest + 1, len(unit)), dim=-1).indices for part in unit.split(1024)]
    )
    by_spelling: dict[str, list[int]] = {}
    for token, spelling in enumerate(folded):
        by_spelling.setdefault(spelling, []).append(token)
    related = torch.full((len(folded), variants), -1)
    for token, spelling in enumerate(folded):
        if not spelling:
            continue
        spellings = [spelling]
        if len(spelling) > 2:
            endings = ("s", "es", "ed", "d", "ing", "ly", "'s")
            spellings += [spelling + ending for ending in endings]
            spellings += [
                spelling[: -len(e)] for e in endings if spelling.endswith(e) and len(spelling) - len(e) > 2
            ]
        kin = [other for s in spellings for other in by_spelling.get(s, ()) if other != token][:variants]
        related[token, : len(kin)] = torch.tensor(kin, dtype=torch.long)
    return torch.cat([near, related], 1).int()


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
