"""Names with a relation for every feature of a dictionary, chosen and judged on a sample of its firings."""

from typing import NamedTuple

import numpy as np
import torch

from lexiscope.evidence.families import matched_controls
from lexiscope.evidence.firing_sample import FiringSample, PassageWords, RelationCounts
from lexiscope.evidence.relations import (
    JudgedNames,
    RelationNames,
    Surroundings,
    choose,
    common_words,
    judge,
    verdicts,
)

CONTROLS = 8
"""Words as frequent as a name's that its share is compared with."""
CHUNK = 250_000
"""Firings looked at together: about 150 MB."""
CHOOSING, JUDGING = 0, 1
"""The halves of the passages."""


class RelationEvidence(NamedTuple):
    """Of the features [d_sae] of a dictionary."""

    names: RelationNames
    judged: JudgedNames
    q: np.ndarray
    verdict: np.ndarray
    """one of VERDICTS"""


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
    return RelationEvidence(names, judged, judged.q(live), verdicts(live, judged))


def _chunks(sample: FiringSample) -> list[tuple[int, int]]:
    """Ranges of features with about CHUNK firings each."""
    before = np.concatenate([[0], sample.counts().cumsum()])
    cuts = np.searchsorted(before, np.arange(0, before[-1], CHUNK), side="left")
    edges = np.unique(np.concatenate([[0], cuts, [sample.d_sae]]))
    return list(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))
