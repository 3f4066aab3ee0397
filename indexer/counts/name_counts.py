"""How often a name holds where its feature fires: the counts of `lexiscope.evidence.EvidenceCounts`, for
millions of firings.

The same counts, to the unit (a test says so): that class compares each firing with 27 relatives and 32 tokens
before; here two Bloom filters first say for most firings that there is nothing to compare.
"""

import numpy as np
import torch

from indexer.counts.firings import Fired
from indexer.counts.positions import WORDS, Stretch, bits
from lexiscope.evidence import KINDS, NEAR, EvidenceCounts


class Relatives:
    """What every dictionary of a model shares: token families [vocab, m] and frequency-matched controls
    [vocab, draws].
    """

    def __init__(self, families: torch.Tensor, controls: torch.Tensor) -> None:
        self.families, self.controls = families.int(), controls
        self.family, self.draws = self.families.numpy(), controls.numpy().astype(np.int64)
        self.masks = np.zeros((len(families), WORDS), np.uint64)
        for relatives in self.family.T:
            known = np.flatnonzero(relatives >= 0)
            word, bit = bits(relatives[known])
            self.masks[known, word] |= np.uint64(1) << bit
        self.word, self.bit = bits(np.arange(len(families)))


class NameHits:
    """Counts of one dictionary's features. Merge by addition."""

    PARTS = ("hits", "control_hits")

    def __init__(self, d_sae: int) -> None:
        self.hits = np.zeros((len(KINDS), d_sae), np.int64)
        self.control_hits = np.zeros((len(KINDS), d_sae), np.int64)

    def add(self, found: Fired, stretch: Stretch, names: np.ndarray, relatives: Relatives) -> None:
        """names [d_sae] token ids."""
        name = names.take(found.feature)
        current = stretch.current.take(found.at)
        drawn = (found.feature + current) % relatives.draws.shape[1]
        control = relatives.draws.reshape(-1).take(name * relatives.draws.shape[1] + drawn)
        for candidate, hits in ((name, self.hits), (control, self.control_hits)):
            for row, held in enumerate(_holds(candidate, current, found.at, stretch, relatives)):
                hits[row] += np.bincount(found.feature.take(held), minlength=hits.shape[1])

    def absorb(self, other: "NameHits") -> None:
        self.hits += other.hits
        self.control_hits += other.control_hits

    def counts(
        self, names: torch.Tensor, firings: np.ndarray, occurrences: np.ndarray, relatives: Relatives
    ) -> EvidenceCounts:
        """As the object that knows what to conclude from them."""
        counts = EvidenceCounts(names, relatives.families, relatives.controls)
        counts.firings, counts.occurrences = torch.from_numpy(firings), torch.from_numpy(occurrences)
        counts.hits, counts.control_hits = torch.from_numpy(self.hits), torch.from_numpy(self.control_hits)
        return counts


def _holds(
    candidate: np.ndarray, current: np.ndarray, at: np.ndarray, stretch: Stretch, relatives: Relatives
) -> list[np.ndarray]:
    """Indices of the firings where each candidate holds, in the order of KINDS."""
    here = candidate == current
    word, bit = relatives.word.take(current), relatives.bit.take(current)
    maybe = (relatives.masks.reshape(-1).take(candidate * WORDS + word) >> bit) & np.uint64(1)
    family = here.copy()
    rows = np.flatnonzero(maybe.view(np.bool_)[::8] & ~here)
    family[rows] = (relatives.family[candidate[rows]] == current[rows, None]).any(1)
    word, bit = relatives.word.take(candidate), relatives.bit.take(candidate)
    maybe = (stretch.before.reshape(-1).take(at * WORDS + word) >> bit) & np.uint64(1)
    near = here.copy()
    rows = np.flatnonzero(maybe.view(np.bool_)[::8] & ~here)
    windows = np.lib.stride_tricks.sliding_window_view(stretch.tokens, NEAR)
    near[rows] = (windows[stretch.spot[at[rows]] - NEAR] == candidate[rows, None]).any(1)
    return [np.flatnonzero(held) for held in (here, family, near, candidate == stretch.following.take(at))]
