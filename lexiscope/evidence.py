"""Name evidence (METHOD.md §5): does a feature named t fire on t, on t's family, near t, or where t comes
next?

Pure functions of tensors and one streaming accumulator. Shares are over all firings of a feature, so all
activation quantiles count by their size. Each share has its null: the same share for tokens of like frequency
drawn at random.

The verdict on a name is decided in `EvidenceCounts.result`, and nowhere else; docs/evidence.md says it in
words, with the rate at which it is wrong.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lexiscope.errors import LexiscopeError
from lexiscope.sparse_code import SparseCode

NEAR = 32
"""`reads_near` looks this many tokens back."""
FDR = 0.05
CHUNK = 4096
TABLE = 1 << 21
"""Cells of the table that names are looked up in: bytes that stay in a processor's cache."""
KINDS = ("reads_here", "reads_family", "reads_near", "predicts")
"""Relations of a firing to a name, each a measure of that name: the row of each in `EvidenceCounts.hits`."""


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


class Lift(NamedTuple):
    """The token each feature fires on with the most lift."""

    tokens: Tensor
    """[d_sae] −1 where the feature never fired"""
    hits: Tensor
    """[d_sae] firings on it"""


def highest_lift(
    features: Tensor, tokens: Tensor, counts: Tensor, firings: Tensor, token_counts: Tensor
) -> Lift:
    """The token t with the highest share(t) · log(share(t) / rate(t)): its part of KL(firing positions ‖
    text).

    Plain lift would always pick a token met once in the text; weighting it by the share asks that it matter.
    features, tokens and counts [pairs] are the distinct pairs of a feature with a token it fired on, and how
    often; firings [d_sae] all the firings of each feature; token_counts [vocab] the occurrences of each token
    in the same text. Of equal tokens the smallest id wins.
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

    features and tokens [firings]: which feature fired, on which token; token_counts [vocab] as in
    `highest_lift`, over every position of the text that the firings are from, whether anything fired there or
    not.
    """
    keys, counts = torch.unique(features.long() * len(token_counts) + tokens.long(), return_counts=True)
    firings = torch.bincount(features, minlength=d_sae)
    return highest_lift(
        keys // len(token_counts), keys % len(token_counts), counts, firings, token_counts
    ).tokens


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
    """of the next-token test, and of the ablation test where a feature has one"""
    supported: Tensor

    def verdict(self, live: Tensor) -> list[str]:
        """`dead`, `both`, `reads`, `predicts` or `unsupported`, from the q-values at a false discovery rate
        of FDR.
        """
        reads, predicts = self.q_reads <= FDR, self.q_predicts <= FDR
        words = {
            (False, False): "unsupported",
            (True, False): "reads",
            (False, True): "predicts",
            (True, True): "both",
        }
        return [
            words[bool(r), bool(p)] if alive else "dead"
            for r, p, alive in zip(reads, predicts, live, strict=True)
        ]

    def measures(self) -> dict[str, Tensor]:
        """Those of `lexiscope.measures.FEATURE` by name, each [d_sae]; NaN where a feature never fired."""
        found = {
            **self.share,
            **{f"{kind}_null": null for kind, null in self.null.items()},
            "recall": self.recall,
            "q_reads": self.q_reads,
            "q_predicts": self.q_predicts,
        }
        fired = self.firings > 0
        return {name: values.where(fired, float("nan")) for name, values in found.items()} | {
            "supported": self.supported
        }

    @property
    def half(self) -> Tensor:
        """[d_sae] bool: at least half of the firings are on the name's family (`half_live` is their share of
        the live features).
        """
        return self.share["reads_family"] >= 0.5


class _Marks:
    """For one stretch of positions at a time: which of the vocabulary's tokens have the position's token in
    their family, or stand near before it, marked in a table [positions, vocab] that stays in cache. A name is
    then one look-up, whatever its family's size.
    """

    def __init__(self, families: Tensor) -> None:
        """families [vocab, m], padded with −1."""
        vocab, device = len(families), families.device
        of, row = families.T.reshape(-1).long(), torch.arange(vocab, device=device).repeat(families.shape[1])
        of, row = of[of >= 0], row[of >= 0]
        order = of.argsort(stable=True)
        self._relatives = row[order]
        """the tokens that hold token 0 in their family, then those that hold token 1, …"""
        self._sizes = torch.bincount(of, minlength=vocab)
        self._starts = self._sizes.cumsum(0) - self._sizes
        self._rows = max(1, (TABLE if device.type == "cpu" else 16 * TABLE) // (vocab + 1))
        self._table = torch.zeros(self._rows * (vocab + 1), dtype=torch.bool, device=device)

    def family_sums(self, counts: Tensor) -> Tensor:
        """[vocab] the sum of counts [vocab] over each token's family, every member once."""
        of = torch.arange(len(self._sizes), device=counts.device).repeat_interleave(self._sizes)
        pairs = torch.unique(self._relatives * len(self._sizes) + of)
        sums = torch.zeros(len(self._sizes), dtype=torch.float64, device=counts.device)
        return sums.index_add_(0, pairs // len(self._sizes), counts[pairs % len(self._sizes)].double())

    def hold(self, candidates: Tensor, place: Place) -> tuple[Tensor, Tensor]:
        """Two of [n, m] for candidates [n, m]: is the current token of each one's family, and does it stand
        near before?
        """
        n, width = len(candidates), len(self._sizes) + 1
        row = torch.arange(n, device=candidates.device) % self._rows * width
        asked = candidates + row[:, None]
        sizes = self._sizes[place.current]
        ends = sizes.cumsum(0)
        along = torch.arange(int(ends[-1]), device=row.device)
        relatives = self._relatives[
            along + (self._starts[place.current] - ends + sizes).repeat_interleave(sizes)
        ]
        relatives += row.repeat_interleave(sizes)
        before = (
            torch.where(place.before < 0, width - 1, place.before) + row[:, None]
        )  # the last column is marked and never asked for
        family, near = torch.empty_like(asked, dtype=torch.bool), torch.empty_like(asked, dtype=torch.bool)
        stretches = torch.arange(0, n, self._rows, device=row.device)
        bounds = [0, *ends[(stretches + self._rows - 1).clamp_max(n - 1)].tolist()]
        for stretch, start in enumerate(range(0, n, self._rows)):
            rows = slice(start, start + self._rows)
            family[rows] = self._look_up(relatives[bounds[stretch] : bounds[stretch + 1]], asked[rows])
            near[rows] = self._look_up(before[rows].reshape(-1), asked[rows])
        return family, near

    def _look_up(self, cells: Tensor, asked: Tensor) -> Tensor:
        self._table.index_fill_(
            0, cells, True
        )  # indexing with brackets waits for all threads, several times a stretch
        found = self._table.index_select(0, asked.reshape(-1))
        self._table.index_fill_(0, cells, False)
        return found.view_as(asked)


class EvidenceCounts:
    """Streaming counts of how often each feature's name, and a control drawn for each firing, hold where it
    fires.

    Any split of a text, in any order, counts the same; `merge` adds what another process counted with the
    same names.
    """

    def __init__(self, names: Tensor, families: Tensor, controls: Tensor) -> None:
        """names [d_sae] token ids; families [vocab, m]; controls [vocab, draws]."""
        self.names, self.controls = names, controls
        self.vocab = len(families)
        self.firings = names.new_zeros(len(names), dtype=torch.long)
        self.hits = names.new_zeros(len(KINDS), len(names), dtype=torch.long)
        self.control_hits = names.new_zeros(len(KINDS), len(names), dtype=torch.long)
        self.occurrences = names.new_zeros(self.vocab, dtype=torch.long)
        self._marks = _Marks(families)

    def add(self, code: SparseCode, place: Place) -> None:
        """Count one batch: code and place of the same n positions."""
        self.occurrences += torch.bincount(place.current, minlength=self.vocab)
        for start in range(0, len(place.current), CHUNK):
            rows = slice(start, start + CHUNK)
            self._add_chunk(
                SparseCode(code.values[rows], code.indices[rows]), Place(*(part[rows] for part in place))
            )

    def _add_chunk(self, code: SparseCode, place: Place) -> None:
        fired = code.values > 0
        size, k = len(self.names), code.indices.shape[1]
        name = self.names[code.indices]
        drawn = (code.indices + place.current[:, None]) % self.controls.shape[
            1
        ]  # any order of batches draws the same
        candidates = torch.cat([name, self.controls[name, drawn]], 1)
        found = [hit.view(len(fired), 2, k) & fired[:, None] for hit in self._holds(candidates, place)]
        cell = code.indices[:, None] + torch.arange(2, device=name.device)[:, None] * size
        counted = torch.cat([cell[hit] + 2 * size * kind for kind, hit in enumerate(found)])
        counts = torch.bincount(counted, minlength=2 * size * len(KINDS)).view(len(KINDS), 2, size)
        self.hits += counts[:, 0]
        self.control_hits += counts[:, 1]
        self.firings += torch.bincount(code.indices[fired], minlength=size)

    def _holds(self, candidates: Tensor, place: Place) -> tuple[Tensor, ...]:
        """For candidates [n, m], in the order of KINDS: [n, m] does each hold at its position?"""
        here = candidates == place.current[:, None]
        family, near = self._marks.hold(candidates, place)
        return here, here | family, here | near, candidates == place.following[:, None]

    def state(self) -> dict[str, Tensor]:
        """What was counted so far, as plain tensors: all that `merge_state` of another process needs, names
        and families apart.
        """
        return {
            name: getattr(self, name) for name in ("names", "firings", "hits", "control_hits", "occurrences")
        }

    def merge(self, other: "EvidenceCounts") -> None:
        """Add the counts of another text; names, families and controls must be the same."""
        self.merge_state(other.state())

    def merge_state(self, state: dict[str, Tensor]) -> None:
        """As `merge`, from a `state`. Raises LexiscopeError where it counted other names or another
        vocabulary.
        """
        if not torch.equal(state["names"], self.names) or len(state["occurrences"]) != self.vocab:
            raise LexiscopeError("These counts of name evidence are of other names: they cannot be added up.")
        for name in ("firings", "hits", "control_hits", "occurrences"):
            getattr(self, name).add_(state[name])

    def result(self, live: Tensor, p_ablation: Tensor | None = None) -> Evidence:
        """Shares, nulls and FDR decisions; live [d_sae] bool says which features are tested.

        The p-value of a count is the Poisson tail P(X ≥ hits | firings · p₀), with p₀ the largest of three
        estimates of chance: the feature's own controls, the pooled controls of features whose names are as
        frequent, and the rate in the text of the name (of all its family, where that is what is asked).
        *Reads* rests on two tests (here, family), *predicts* on one (the next token), or on two where the
          ablation pass gave the
        feature a p-value too (`ablation_p`; NaN elsewhere), *supported* on both questions: the smallest
        p-value of several tests counts times their number (Bonferroni). Benjamini-Hochberg then runs over
        live features, once for each of the three.
        """
        n = self.firings.clamp_min(1).double()
        share = {kind: self.hits[row] / n for row, kind in enumerate(KINDS)}
        null = {kind: self.control_hits[row] / n for row, kind in enumerate(KINDS)}
        occurrences = self.occurrences[self.names].double()
        total = self.occurrences.sum().clamp_min(1)
        rate, family_rate = occurrences / total, self._marks.family_sums(self.occurrences)[self.names] / total
        p = {}
        for row, kind in enumerate(KINDS):
            pooled = _pooled(self.control_hits[row].double(), n, frequency_bins(occurrences))
            floor = torch.maximum(null[kind], pooled)
            if kind != "reads_near":
                floor = torch.maximum(floor, family_rate if kind == "reads_family" else rate)
            p[kind] = poisson_tail(self.hits[row].double(), n * floor)
        reads, predicts = _best_of(p["reads_here"], p["reads_family"]), p["predicts"]
        if p_ablation is not None:
            predicts = torch.where(
                p_ablation.isnan(), predicts, _best_of(predicts, p_ablation.nan_to_num(1).to(predicts))
            )
        q_reads, q_predicts = benjamini_hochberg(reads, live), benjamini_hochberg(predicts, live)
        either = benjamini_hochberg(_best_of(reads, predicts), live)
        recall = self.hits[0] / occurrences.clamp_min(1)
        return Evidence(self.firings, share, null, recall, q_reads, q_predicts, (either <= FDR) & live)


class AblationCounts(NamedTuple):
    """What the ablation pass counted of features [d_sae]: in how many contexts a token is among the five
    whose logits fall most.
    """

    contexts: Tensor
    """0 where a feature was not tested"""
    hits: Tensor
    """of the name"""
    control_hits: Tensor
    """[d_sae, draws] of each of its frequency-matched controls"""
    rate: Tensor
    """share of all contexts of other features in which the name is among the five"""


def ablation_p(counts: AblationCounts, occurrences: Tensor) -> Tensor:
    """[d_sae] p-value of the ablation hits, NaN where a feature was not tested; occurrences [d_sae] of the
    names in the text.

    The larger of two: the Poisson tail P(X ≥ hits | contexts · p₀), with p₀ the larger of the pooled controls
    of features whose names are as frequent and of the name's own rate under the ablation of other features;
    and the share of all controls that do as well in their feature's contexts. The second is there because the
    contexts of one feature are no independent trials: what its direction lowers in one, it lowers in the
    next.
    """
    tested = counts.contexts > 0
    n, draws = counts.contexts.double(), counts.control_hits.shape[1]
    pooled = _pooled(counts.control_hits.sum(1).double(), n * draws, frequency_bins(occurrences))
    tail = poisson_tail(counts.hits.double(), n * torch.maximum(pooled, counts.rate.double()))
    controls = (counts.control_hits[tested] / n[tested, None]).reshape(-1).sort().values
    below = torch.searchsorted(controls, counts.hits / n.clamp_min(1))
    as_good = (len(controls) - below + 1) / (len(controls) + 1)
    return torch.maximum(tail, as_good).where(tested, float("nan"))


def frequency_bins(occurrences: Tensor) -> Tensor:
    """[n] names of one bin are as frequent as each other within a factor of two."""
    return occurrences.double().add(1).log2().long()


def _best_of(p: Tensor, other: Tensor) -> Tensor:
    """The p-value of the better of two tests."""
    return (2 * torch.minimum(p, other)).clamp_max(1)


def _pooled(hits: Tensor, trials: Tensor, bins: Tensor) -> Tensor:
    """[n] the pooled rate of each element's bin."""
    size = int(bins.max()) + 1
    return (torch.bincount(bins, hits, size) / torch.bincount(bins, trials, size).clamp_min(1))[bins]


def poisson_tail(hits: Tensor, expected: Tensor) -> Tensor:
    """P(X ≥ hits) for X ~ Poisson(expected): the regularised lower incomplete gamma function P(hits,
    expected).
    """
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
