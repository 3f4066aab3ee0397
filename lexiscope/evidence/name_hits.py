"""Counts how often the names of features hold where the features fire, for millions of firings.

Two Bloom filters, of the families and of the tokens before each position, rule out most firings before any
list of tokens is compared.
"""

import numpy as np
from torch import Tensor

from lexiscope.evidence.flat_text import NEAR, WORDS, FlatFirings, FlatText, bloom_bits

KINDS = ("reads_here", "reads_family", "reads_near", "predicts")
"""Relations of a firing to a name, each a measure of that name: it is the token at the position; is related
to that token (`families`); stands there or within NEAR tokens before; comes next.
"""


class NameTables:
    """What is known of each token, shared by all dictionaries of a model: its family, its control tokens
    and its word.
    """

    def __init__(self, families: Tensor, controls: Tensor, words: np.ndarray | None = None) -> None:
        """families [vocab, m] padded with −1; controls [vocab, draws] tokens of like frequency; words [vocab]
        as `words_of` gives them: each token a word of its own unless given.
        """
        self.words = np.arange(len(families), dtype=np.int32) if words is None else words
        self.families = families.int().cpu().numpy()
        self.controls = controls.cpu().numpy().astype(np.int64)
        self.family_filters = np.zeros((len(families), WORDS), np.uint64)
        """[vocab, WORDS] Bloom filter of each family"""
        for member in self.families.T:
            known = np.flatnonzero(member >= 0)
            word, bit = bloom_bits(member[known])
            self.family_filters[known, word] |= np.uint64(1) << bit
        self.word, self.bit = bloom_bits(np.arange(len(families)))
        """[vocab] each token's bit in a Bloom filter"""

    def family_sums(self, counts: np.ndarray) -> np.ndarray:
        """[vocab] the sum of counts [vocab] over each token's family, every member once."""
        members = np.sort(self.families, 1)
        once = members >= 0
        once[:, 1:] &= members[:, 1:] != members[:, :-1]
        return (counts[members] * once).sum(1)


class NameHits:
    """Counts [KINDS, d_sae] of one dictionary's features: how often the name holds, and a control in its
    place. The control of a firing follows from feature and token, so any split of a text, in any order,
    counts the same.
    """

    PARTS = ("hits", "control_hits")

    def __init__(self, d_sae: int) -> None:
        self.hits = np.zeros((len(KINDS), d_sae), np.int64)
        self.control_hits = np.zeros((len(KINDS), d_sae), np.int64)

    def add(self, firings: FlatFirings, text: FlatText, names: np.ndarray, tables: NameTables) -> None:
        """names [d_sae] token ids."""
        name = names.take(firings.feature)
        current = text.current.take(firings.at)
        n_draws = tables.controls.shape[1]
        drawn = (firings.feature + current) % n_draws
        control = tables.controls.reshape(-1).take(name * n_draws + drawn)
        for candidate, hits in ((name, self.hits), (control, self.control_hits)):
            for row, held in enumerate(_holding(candidate, current, firings.at, text, tables)):
                hits[row] += np.bincount(firings.feature.take(held), minlength=hits.shape[1])

    def absorb(self, other: "NameHits") -> None:
        self.hits += other.hits
        self.control_hits += other.control_hits


def _holding(
    candidate: np.ndarray, current: np.ndarray, at: np.ndarray, text: FlatText, tables: NameTables
) -> list[np.ndarray]:
    """Indices of the firings at which each one's candidate token holds, in the order of KINDS."""
    here = candidate == current
    word, bit = tables.word.take(current), tables.bit.take(current)
    family = here.copy()
    rows = _possible(tables.family_filters, candidate, word, bit, ~here)
    family[rows] = (tables.families[candidate[rows]] == current[rows, None]).any(1)
    word, bit = tables.word.take(candidate), tables.bit.take(candidate)
    near = here.copy()
    rows = _possible(text.before, at, word, bit, ~here)
    windows = np.lib.stride_tricks.sliding_window_view(text.tokens, NEAR)
    near[rows] = (windows[text.place[at[rows]] - NEAR] == candidate[rows, None]).any(1)
    return [np.flatnonzero(held) for held in (here, family, near, candidate == text.following.take(at))]


def _possible(
    filters: np.ndarray, row: np.ndarray, word: np.ndarray, bit: np.ndarray, among: np.ndarray
) -> np.ndarray:
    """Indices `among` which the bit is set in the given row of the Bloom filters."""
    found = (filters.reshape(-1).take(row * WORDS + word) >> bit) & np.uint64(1)
    return np.flatnonzero(found.view(np.bool_)[::8] & among)
