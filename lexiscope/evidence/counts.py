"""Streaming counts of how often a feature's name holds where it fires, and the decision on the name.

The verdict on a name is decided in `EvidenceCounts.result` and nowhere else; docs/evidence.md describes it,
with the rate at which it is wrong.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from lexiscope.errors import LexiscopeError
from lexiscope.evidence.positions import PositionTokens
from lexiscope.evidence.significance import (
    benjamini_hochberg,
    better_of,
    frequency_bins,
    poisson_tail,
    pooled_rate,
)
from lexiscope.sparse_code import SparseCode

FDR = 0.05
CHUNK = 4096
TABLE = 1 << 21
"""Cells of the table that names are looked up in: bytes that stay in a processor's cache."""
KINDS = ("reads_here", "reads_family", "reads_near", "predicts")
"""Relations of a firing to a name, each a measure of that name: the row of each in `EvidenceCounts.hits`."""


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


class _RelativesTable:
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

    def hold(self, candidates: Tensor, place: PositionTokens) -> tuple[Tensor, Tensor]:
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
        self._relatives_table = _RelativesTable(families)

    def add(self, code: SparseCode, place: PositionTokens) -> None:
        """Count one batch: code and place of the same n positions."""
        self.occurrences += torch.bincount(place.current, minlength=self.vocab)
        for start in range(0, len(place.current), CHUNK):
            rows = slice(start, start + CHUNK)
            self._add_chunk(
                SparseCode(code.values[rows], code.indices[rows]),
                PositionTokens(*(part[rows] for part in place)),
            )

    def _add_chunk(self, code: SparseCode, place: PositionTokens) -> None:
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

    def _holds(self, candidates: Tensor, place: PositionTokens) -> tuple[Tensor, ...]:
        """For candidates [n, m], in the order of KINDS: [n, m] does each hold at its position?"""
        here = candidates == place.current[:, None]
        family, near = self._relatives_table.hold(candidates, place)
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
        rate, family_rate = (
            occurrences / total,
            self._relatives_table.family_sums(self.occurrences)[self.names] / total,
        )
        p = {}
        for row, kind in enumerate(KINDS):
            pooled = pooled_rate(self.control_hits[row].double(), n, frequency_bins(occurrences))
            floor = torch.maximum(null[kind], pooled)
            if kind != "reads_near":
                floor = torch.maximum(floor, family_rate if kind == "reads_family" else rate)
            p[kind] = poisson_tail(self.hits[row].double(), n * floor)
        reads, predicts = better_of(p["reads_here"], p["reads_family"]), p["predicts"]
        if p_ablation is not None:
            predicts = torch.where(
                p_ablation.isnan(), predicts, better_of(predicts, p_ablation.nan_to_num(1).to(predicts))
            )
        q_reads, q_predicts = benjamini_hochberg(reads, live), benjamini_hochberg(predicts, live)
        either = benjamini_hochberg(better_of(reads, predicts), live)
        recall = self.hits[0] / occurrences.clamp_min(1)
        return Evidence(self.firings, share, null, recall, q_reads, q_predicts, (either <= FDR) & live)
