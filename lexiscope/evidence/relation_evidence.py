"""Names with a relation for every feature of a dictionary, chosen and judged on a sample of its firings."""

from typing import NamedTuple

import numpy as np
import torch

from lexiscope.evidence.families import matched_controls
from lexiscope.evidence.firing_sample import CHOOSING, JUDGING, FiringSample, PassageWords, RelationCounts
from lexiscope.evidence.relations import (
    RELATIONS,
    VERDICTS,
    JudgedNames,
    RelationNames,
    Surroundings,
    choose,
    common_words,
    judge,
    verdicts,
)
from lexiscope.measures import FOUND, OFTEN

CONTROLS = 8
"""Words as frequent as a name's that its share is compared with."""
CHUNK = 250_000
"""Firings looked at together: about 150 MB."""
ON = RELATIONS.index("on")


class RelationEvidence(NamedTuple):
    """Of the features [d_sae] of a dictionary."""

    names: RelationNames
    judged: JudgedNames
    q: np.ndarray
    verdict: np.ndarray
    """one of VERDICTS"""
    finds: float | None
    """as `found_words` gives it"""

    @property
    def holds(self) -> np.ndarray:
        """[d_sae] bool: specific or partial."""
        return np.isin(self.verdict, ("specific", "partial"))

    def measures(self) -> dict[str, np.ndarray]:
        """Those of `lexiscope.measures.FEATURE` by name, each [d_sae]; NaN or −1 where there is no name."""
        judged, named = self.judged, self.names.relation >= 0
        found = {
            "relation_share": judged.share,
            "relation_low": judged.low,
            "relation_high": judged.high,
            "relation_chance": judged.chance,
            "relation_lift": judged.lift,
            "relation_q": self.q,
        }
        counts = {"judged_firings": judged.firings, "judged_passages": judged.passages}
        return {
            name: np.where(named & (judged.firings > 0), values, np.nan) for name, values in found.items()
        } | {name: np.where(named, values, -1) for name, values in counts.items()}

    def shares(self, live: np.ndarray, firings: np.ndarray) -> dict[str, float | None]:
        """Those of `lexiscope.measures.DICTIONARY` by name, None where they would be of nothing; live [d_sae]
        bool, firings [d_sae].
        """
        tested = live & self.judged.tested
        return {
            "holds_live": _share(self.holds, live),
            "holds_tested": _share(self.holds, tested),
            "holds_firing": _share(self.holds, firings * live),
            "specific_live": _share(self.verdict == "specific", live),
            "tested_live": _share(tested, live),
            "share_tested": _median(self.judged.share[tested]),
            "chance_tested": _median(self.judged.chance[tested]),
            "finds": self.finds,
        }

    def firing_shares(self, firings: np.ndarray) -> dict[str, float]:
        """{verdict: share of all firings}; empty where there are none."""
        shares = {verdict: _share(self.verdict == verdict, firings) for verdict in VERDICTS}
        return {verdict: share for verdict, share in shares.items() if share is not None}


def _share(holds: np.ndarray, weight: np.ndarray) -> float | None:
    """Σ weight · holds by Σ weight; None where there is no weight."""
    total = float(weight.sum())
    return float((weight * holds).sum()) / total if total else None


def _median(values: np.ndarray) -> float | None:
    """None of no values."""
    return float(np.median(values)) if len(values) else None


class SampledText:
    """The words around sampled firings and their rates in the text; shared by all dictionaries of a model."""

    def __init__(self, passages: PassageWords, counts: RelationCounts) -> None:
        self._passages = passages
        whole = counts.rates()
        self.rates = [counts.rates(half) for half in (CHOOSING, JUDGING)]
        self.common = common_words(whole)
        self.controls = matched_controls(torch.from_numpy(whole.counts[0]), draws=CONTROLS).numpy()

    def chosen(self, sample: FiringSample) -> RelationNames:
        """The name of each feature, from the first half of the passages."""
        names = RelationNames.empty(sample.d_sae)
        for first, last in _chunks(sample):
            firings = self._surroundings(sample, first, last, CHOOSING)
            if len(firings.feature):
                part = choose(firings, self.rates[CHOOSING], self.common, last - first)
                names.relation[first:last], names.words[first:last] = part
        return names

    def judged(self, sample: FiringSample, names: RelationNames) -> JudgedNames:
        """What the second half says of names."""
        parts = [
            judge(
                self._surroundings(sample, first, last, JUDGING),
                names.take(np.arange(first, last)),
                self.rates[JUDGING],
                self.controls,
                last - first,
            )
            for first, last in _chunks(sample)
        ]
        return JudgedNames(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    def _surroundings(self, sample: FiringSample, first: int, last: int, half: int) -> Surroundings:
        places = sample.places(first, last)
        own = places.half == half
        passage = places.passage[own]
        return Surroundings(
            places.feature[own] - first,
            self._passages.units(passage),
            self._passages.around(passage, places.position[own]),
        )


def relation_evidence(sample: FiringSample, text: SampledText, live: np.ndarray) -> RelationEvidence:
    """live [d_sae] bool: the features that are tested."""
    names = text.chosen(sample)
    judged = text.judged(sample, names)
    finds = found_words(names, judged, sample.judged, text.rates[JUDGING].counts[ON])
    return RelationEvidence(names, judged, judged.q(live), verdicts(live, judged), finds)


def found_words(
    names: RelationNames, judged: JudgedNames, firings: np.ndarray, occurrences: np.ndarray
) -> float | None:
    """Of the words with at least OFTEN occurrences, the share that a feature named *on* them detects with an
    F1 of at least FOUND, None where no word occurs so often; firings [d_sae] and occurrences [vocab] in the
    judged passages.

    A word's hits are its share of the judged firings times all firings.
    """
    on = names.relation == ON
    best = np.zeros(len(occurrences))
    shares = np.diff(judged.cumulative, axis=1, prepend=0)
    for word, share in zip(names.words[on].T, shares[on].T, strict=True):
        known = word >= 0
        hits = 2 * share[known] * firings[on][known]
        f1 = hits / np.maximum(firings[on][known] + occurrences[word[known]], 1)
        np.maximum.at(best, word[known], f1)
    return _share(best >= FOUND, occurrences >= OFTEN)


def _chunks(sample: FiringSample) -> list[tuple[int, int]]:
    """Ranges of features with about CHUNK firings each."""
    before = np.concatenate([[0], sample.counts().cumsum()])
    cuts = np.searchsorted(before, np.arange(0, before[-1], CHUNK), side="left")
    edges = np.unique(np.concatenate([[0], cuts, [sample.d_sae]]))
    return list(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))
