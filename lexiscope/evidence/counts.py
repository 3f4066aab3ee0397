"""Streaming counts of how often a given name, such as that of the nearest anchor, holds where a feature
fires.

What a feature fires on is found and judged by `relations`, whatever its direction says.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lexiscope.evidence.flat_text import FlatFirings, FlatText, flat_firings
from lexiscope.evidence.name_hits import KINDS, NameHits, NameTables
from lexiscope.evidence.significance import (
    benjamini_hochberg,
    better_of,
    frequency_bins,
    poisson_tail,
    pooled_rate,
)
from lexiscope.sparse_code import SparseCode

FDR = 0.05


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
        return {name: values.where(fired, float("nan")) for name, values in found.items()}

    def to(self, device: torch.device) -> "Evidence":
        share, null = (
            {kind: t.to(device) for kind, t in by_kind.items()} for by_kind in (self.share, self.null)
        )
        rest = (self.recall, self.q_reads, self.q_predicts, self.supported)
        return Evidence(self.firings.to(device), share, null, *(t.to(device) for t in rest))

    @property
    def half(self) -> Tensor:
        """[d_sae] bool: at least half of the firings are on the name's family (`half_live` is their share of
        the live features).
        """
        return self.share["reads_family"] >= 0.5


class EvidenceCounts:
    """What the evidence for one dictionary's names is computed from: firings of each feature, occurrences of
    each token, and how often names and controls held. Everything is on the CPU.

    Any split of a text, in any order, counts the same.
    """

    def __init__(self, names: Tensor, tables: NameTables) -> None:
        """names [d_sae] token ids."""
        self.names, self.tables = names.cpu(), tables
        self.firings = torch.zeros(len(names), dtype=torch.long)
        self.occurrences = torch.zeros(len(tables.families), dtype=torch.long)
        self._hits = NameHits(len(names))

    @classmethod
    def of(
        cls, names: Tensor, tables: NameTables, hits: NameHits, firings: np.ndarray, occurrences: np.ndarray
    ) -> "EvidenceCounts":
        """From counts made elsewhere: firings [d_sae], occurrences [vocab]."""
        counts = cls(names, tables)
        counts._hits = hits
        counts.firings, counts.occurrences = torch.from_numpy(firings), torch.from_numpy(occurrences)
        return counts

    @property
    def hits(self) -> Tensor:
        """[KINDS, d_sae] firings at which the name holds."""
        return torch.from_numpy(self._hits.hits)

    @property
    def control_hits(self) -> Tensor:
        """[KINDS, d_sae] firings at which the control drawn for them holds."""
        return torch.from_numpy(self._hits.control_hits)

    def add(self, code: SparseCode, text: FlatText) -> None:
        """Count the code of a text's encoded positions, and the text's tokens."""
        self.add_firings(flat_firings([code]), text)
        self.occurrences += torch.from_numpy(
            np.bincount(text.current[text.current >= 0], minlength=len(self.occurrences))
        )

    def add_firings(self, firings: FlatFirings, text: FlatText) -> None:
        """As `add`, without the text's tokens."""
        self._hits.add(firings, text, self.names.numpy(), self.tables)
        self.firings += torch.from_numpy(np.bincount(firings.feature, minlength=len(self.firings)))

    def result(self, live: Tensor, p_ablation: Tensor | None = None) -> Evidence:
        """Shares, their value at chance, and FDR decisions, on the device of live [d_sae] bool, which says
        which features are tested.

        The p-value of a count is the Poisson tail P(X ≥ hits | firings · p₀), with p₀ the largest of three
        estimates of chance: the feature's own controls, the pooled controls of features whose names are as
        frequent, and the rate in the text of the name (of its whole family for the kind `reads_family`).
        *Reads* rests on two tests (here, family). *Predicts* rests on one (the next token), or on two where
        the ablation pass gave the feature a p-value too (`ablation_p`; NaN elsewhere). *Supported* rests on
        both. The smallest p-value of several tests is multiplied by their number (Bonferroni).
        Benjamini-Hochberg then runs over live features, once for each of the three.
        """
        device, live = live.device, live.cpu()
        n = self.firings.clamp_min(1).double()
        share = {kind: self.hits[row] / n for row, kind in enumerate(KINDS)}
        null = {kind: self.control_hits[row] / n for row, kind in enumerate(KINDS)}
        occurrences = self.occurrences[self.names].double()
        total = self.occurrences.sum().clamp_min(1)
        family_sums = torch.from_numpy(self.tables.family_sums(self.occurrences.numpy()))
        rate, family_rate = occurrences / total, family_sums[self.names].double() / total
        p = {}
        for row, kind in enumerate(KINDS):
            control_hits, fired = self.control_hits[row].double(), self.firings.double()
            pooled = pooled_rate(control_hits, fired, frequency_bins(occurrences))
            floor = torch.maximum(null[kind], pooled)
            if kind != "reads_near":
                floor = torch.maximum(floor, family_rate if kind == "reads_family" else rate)
            p[kind] = poisson_tail(self.hits[row].double(), n * floor)
        reads, predicts = better_of(p["reads_here"], p["reads_family"]), p["predicts"]
        if p_ablation is not None:
            tested = p_ablation.to(predicts)
            predicts = torch.where(tested.isnan(), predicts, better_of(predicts, tested.nan_to_num(1)))
        q_reads, q_predicts = benjamini_hochberg(reads, live), benjamini_hochberg(predicts, live)
        either = benjamini_hochberg(better_of(reads, predicts), live)
        recall = self.hits[0] / occurrences.clamp_min(1)
        supported = (either <= FDR) & live
        return Evidence(self.firings, share, null, recall, q_reads, q_predicts, supported).to(device)
