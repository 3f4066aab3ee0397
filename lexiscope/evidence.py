"""Name evidence (METHOD.md §5): does a feature named t fire on t, on t's family, near t, or where t comes next?

Pure functions of tensors and one streaming accumulator. Shares are over all firings of a feature, so all activation
quantiles count by their size. Each share has its null: the same share for tokens of like frequency drawn at random.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lexiscope.dictionary import SparseCode

NEAR = 32
"""`reads_near` looks this many tokens back."""
FDR = 0.05
CHUNK = 1024
KINDS = ("here", "family", "near", "predicts")


def families(embedding: Tensor, folded: list[str], *, nearest: int = 20, variants: int = 6) -> Tensor:
    """[vocab, 1 + nearest + variants] each token's family: itself, case and space variants, inflections, nearest by raw W_E.

    Inflections are tokens whose folded spelling adds or drops one of s, es, ed, d, ing, ly, 's. Padded with −1.
    """
    unit = F.normalize(embedding - embedding.mean(0), dim=-1)
    near = torch.cat([(part @ unit.T).topk(min(nearest + 1, len(unit)), dim=-1).indices for part in unit.split(1024)])
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
            spellings += [spelling[: -len(e)] for e in endings if spelling.endswith(e) and len(spelling) - len(e) > 2]
        kin = [other for s in spellings for other in by_spelling.get(s, ()) if other != token][:variants]
        related[token, : len(kin)] = torch.tensor(kin, dtype=torch.long)
    return torch.cat([near, related], 1).int()


def matched_controls(counts: Tensor, *, draws: int = 4, seed: int = 0) -> Tensor:
    """[vocab, draws] for each token, other tokens of like frequency: ranks within ±5 % (at least ±10 places), never itself."""
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


class Lift(NamedTuple):
    """The token each feature fires on with the most lift."""

    tokens: Tensor
    """[d_sae] −1 where the feature never fired"""
    hits: Tensor
    """[d_sae] firings on it"""


def highest_lift(features: Tensor, tokens: Tensor, counts: Tensor, firings: Tensor, token_counts: Tensor) -> Lift:
    """The token t with the highest share(t) · log(share(t) / rate(t)): its part of KL(firing positions ‖ text).

    Plain lift would always pick a token met once in the text; weighting it by the share asks that it matter. features, tokens and
    counts [pairs] are the distinct pairs of a feature with a token it fired on, and how often; firings [d_sae] all the firings
    of each feature; token_counts [vocab] the occurrences of each token in the same text. Of equal tokens the smallest id wins.
    """
    share = counts.double() / firings[features].clamp_min(1)
    rate = token_counts[tokens].double().clamp_min(1) / token_counts.sum().clamp_min(1)
    order = tokens.argsort(stable=True)
    order = order[(share * (share / rate).log())[order].argsort(descending=True, stable=True)]
    order = order[features[order].argsort(stable=True)]
    met, times = torch.unique_consecutive(features[order], return_counts=True)
    first = order[times.cumsum(0) - times]
    best, hits = torch.full_like(firings, -1, dtype=torch.long), torch.zeros_like(firings, dtype=torch.long)
    best[met], hits[met] = tokens[first], counts[first].long()
    return Lift(best, hits)


def lift_names(features: Tensor, tokens: Tensor, token_counts: Tensor, d_sae: int) -> Tensor:
    """[d_sae] the name of highest lift of each feature, −1 where it never fired.

    features and tokens [firings]: which feature fired, on which token; token_counts [vocab] as in `highest_lift`, over every
    position of the text that the firings are from, whether anything fired there or not.
    """
    keys, counts = torch.unique(features.long() * len(token_counts) + tokens.long(), return_counts=True)
    firings = torch.bincount(features, minlength=d_sae)
    return highest_lift(keys // len(token_counts), keys % len(token_counts), counts, firings, token_counts).tokens


class Place(NamedTuple):
    """Where n firings' worth of positions stand in the text."""

    current: Tensor
    """[n] the token at each position"""
    following: Tensor
    """[n] the next token, −1 at a passage's end"""
    before: Tensor
    """[n, NEAR] the tokens before, −1 where the passage had not begun"""


def places(tokens: Tensor, following: Tensor, mask: Tensor) -> Place:
    """The `Place` of every masked position of a batch: tokens, following and mask are [batch, positions]."""
    padded = F.pad(tokens, (NEAR, 0), value=-1)
    before = padded.unfold(1, NEAR, 1)[:, : tokens.shape[1]]
    return Place(tokens[mask], following[mask], before[mask])


class Evidence(NamedTuple):
    """Per feature [d_sae]; shares are 0 where a feature never fired."""

    firings: Tensor
    share: dict[str, Tensor]
    """by KINDS"""
    null: dict[str, Tensor]
    recall: Tensor
    q_reads: Tensor
    q_predicts: Tensor
    supported: Tensor

    def verdict(self, live: Tensor) -> list[str]:
        """`dead`, `both`, `reads`, `predicts` or `unsupported`, from the q-values at a false discovery rate of FDR."""
        reads, predicts = self.q_reads <= FDR, self.q_predicts <= FDR
        words = {(False, False): "unsupported", (True, False): "reads", (False, True): "predicts", (True, True): "both"}
        return [words[bool(r), bool(p)] if alive else "dead" for r, p, alive in zip(reads, predicts, live, strict=True)]


class EvidenceCounts:
    """Streaming counts of how often each feature's name, and a control drawn for each firing, hold where it fires. Merge by addition."""

    def __init__(self, names: Tensor, families: Tensor, controls: Tensor) -> None:
        """names [d_sae] token ids; families [vocab, m]; controls [vocab, draws]."""
        self.names, self.families, self.controls = names, families, controls
        self.vocab = len(families)
        self.firings = names.new_zeros(len(names), dtype=torch.long)
        self.hits = names.new_zeros(len(KINDS), len(names), dtype=torch.long)
        self.control_hits = names.new_zeros(len(KINDS), len(names), dtype=torch.long)
        self.occurrences = names.new_zeros(self.vocab, dtype=torch.long)

    def add(self, code: SparseCode, place: Place) -> None:
        """Count one batch: code and place of the same n positions."""
        self.occurrences += torch.bincount(place.current, minlength=self.vocab)
        for start in range(0, len(place.current), CHUNK):
            rows = slice(start, start + CHUNK)
            self._add_chunk(SparseCode(code.values[rows], code.indices[rows]), Place(*(part[rows].int() for part in place)))

    def _add_chunk(self, code: SparseCode, place: Place) -> None:
        fired = code.values > 0
        size = len(self.names)
        self.firings += torch.bincount(code.indices[fired], minlength=size)
        name = self.names[code.indices]
        drawn = (code.indices + place.current[:, None]) % self.controls.shape[1]  # any order of batches draws the same
        for candidate, hits in ((name, self.hits), (self.controls[name, drawn], self.control_hits)):
            for row, hit in enumerate(self._holds(candidate, place)):
                hits[row] += torch.bincount(code.indices[hit & fired], minlength=size)

    def _holds(self, candidate: Tensor, place: Place) -> tuple[Tensor, ...]:
        """For candidates [n, k], in the order of KINDS: [n, k] does each hold at its position?"""
        current = place.current[:, None]
        short = candidate.int()
        here = short == current
        family = (self.families[candidate] == current[..., None]).any(-1)
        near = (place.before[:, None] == short[..., None]).any(-1)
        return here, here | family, here | near, short == place.following[:, None]

    def result(self, live: Tensor) -> Evidence:
        """Shares, nulls and FDR decisions; live [d_sae] bool says which features are tested.

        The p-value is the Poisson tail P(X ≥ hits | firings · p₀), with p₀ the largest of three estimates of chance: the
        feature's own controls, the pooled controls of features whose names are as frequent, and the name's rate in the text.
        The two reading tests (here, family) share one q-value by Bonferroni; Benjamini-Hochberg runs over live features.
        """
        n = self.firings.clamp_min(1).double()
        share = {kind: self.hits[row] / n for row, kind in enumerate(KINDS)}
        null = {kind: self.control_hits[row] / n for row, kind in enumerate(KINDS)}
        occurrences = self.occurrences[self.names].double()
        rate = occurrences / self.occurrences.sum().clamp_min(1)
        bins = occurrences.add(1).log2().long()
        p = {}
        for row, kind in enumerate(KINDS):
            pooled = _pooled(self.control_hits[row].double(), n, bins)
            floor = torch.maximum(null[kind], pooled)
            if kind in ("here", "predicts"):
                floor = torch.maximum(floor, rate)
            p[kind] = poisson_tail(self.hits[row].double(), n * floor)
        reads = (2 * torch.minimum(p["here"], p["family"])).clamp_max(1)
        q_reads, q_predicts = benjamini_hochberg(reads, live), benjamini_hochberg(p["predicts"], live)
        either = benjamini_hochberg((2 * torch.minimum(reads, p["predicts"])).clamp_max(1), live)
        recall = self.hits[0] / occurrences.clamp_min(1)
        return Evidence(self.firings, share, null, recall, q_reads, q_predicts, (either <= FDR) & live)


def _pooled(hits: Tensor, trials: Tensor, bins: Tensor) -> Tensor:
    """[n] the pooled rate of each element's bin."""
    size = int(bins.max()) + 1
    return (torch.bincount(bins, hits, size) / torch.bincount(bins, trials, size).clamp_min(1))[bins]


def poisson_tail(hits: Tensor, expected: Tensor) -> Tensor:
    """P(X ≥ hits) for X ~ Poisson(expected): the regularised lower incomplete gamma function P(hits, expected)."""
    tail = torch.special.gammainc(hits.clamp_min(1), expected.clamp_min(1e-12))
    return torch.where(hits > 0, tail, torch.ones_like(tail))


def benjamini_hochberg(p: Tensor, tested: Tensor) -> Tensor:
    """q-values [n] of p [n] over the elements of `tested` [n] bool (Benjamini & Hochberg 1995); 1 elsewhere."""
    q = torch.ones_like(p)
    some = p[tested]
    if len(some):
        order = some.argsort()
        ranked = some[order] * len(some) / torch.arange(1, len(some) + 1, dtype=p.dtype, device=p.device)
        smallest = ranked.flip(0).cummin(0).values.flip(0).clamp_max(1)
        found = torch.empty_like(smallest)
        found[order] = smallest
        q[tested] = found
    return q
