"""What names with a relation (`relations`) are chosen and judged on: a sample of each feature's firings in
either half of the passages, and how often each relation to each word holds over all positions.

Both are exact under any split of the text: the sample is the firings of lowest code, a permutation of
(passage, position), and the lowest of a text are among the lowest of its parts. A sampled firing takes eight
bytes; the words around it are read from the passages' tokens afterwards.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from lexiscope.evidence.flat_text import NEAR, FlatText, mix
from lexiscope.evidence.relations import FARTHEST, NEAREST, RELATIONS, Rates

SAMPLED_FIRINGS = 256
"""Firings kept of a feature in either half: 4 kB a feature at most."""
MAX_PASSAGES = 1 << 24
"""Passages of a text that codes have room for; positions have 16 bits."""
MAX_FEATURES = 1 << 23
"""Features of a dictionary that keys have room for."""
_BITS = np.uint64(40)
_MASK = np.uint64((1 << 40) - 1)
_FACTORS = (0x9E3779B97F, 0xBF58476D1D, 0x94D049BB13)
_HALF_BITS = np.uint64(20)
CHOOSING, JUDGING = 0, 1
"""The halves of the passages."""
SLACK = 200_000
"""Firings added before a sample is sorted and cut again."""


def place_codes(passage: np.ndarray, position: np.ndarray) -> np.ndarray:
    """[n] uint64 below 2^40, one to one: passages below MAX_PASSAGES, positions below 2^16."""
    code = (passage.astype(np.uint64) << np.uint64(16)) | position.astype(np.uint64)
    with np.errstate(over="ignore"):
        for factor in _FACTORS:
            code = (code * np.uint64(factor)) & _MASK
            code ^= code >> _HALF_BITS
    return code


def places_of(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The passages and positions [n] of codes [n]."""
    code = codes.copy()
    with np.errstate(over="ignore"):
        for factor in reversed(_FACTORS):
            code ^= code >> _HALF_BITS
            code = (code * np.uint64(pow(factor, -1, 1 << 40))) & _MASK
    return (code >> np.uint64(16)).astype(np.int64), (code & np.uint64(0xFFFF)).astype(np.int64)


def passage_hashes(text: FlatText) -> np.ndarray:
    """[passages] uint64 of each passage's tokens."""
    row = np.repeat(np.arange(len(text.lengths)), text.lengths)
    position = np.arange(len(row)) - np.repeat(text.lengths.cumsum() - text.lengths, text.lengths)
    tokens = text.tokens[text.starts[row] + position]
    hashes = np.zeros(len(text.lengths), np.uint64)
    with np.errstate(over="ignore"):
        np.add.at(hashes, row, mix((position.astype(np.uint64) << np.uint64(32)) | tokens.astype(np.uint32)))
    return mix(hashes)


def halves_of(text: FlatText) -> np.ndarray:
    """[passages] 0 or 1, by a hash of the tokens: equal passages are in one half."""
    return (passage_hashes(text) >> np.uint64(63)).astype(np.int64)


class SampledPlaces(NamedTuple):
    """Sampled firings, sorted by feature and half."""

    feature: np.ndarray
    half: np.ndarray
    passage: np.ndarray
    position: np.ndarray


class FiringSample:
    """Of the features of one dictionary. Raises ValueError where there are more than MAX_FEATURES."""

    PARTS = ("keys", "totals")

    def __init__(self, d_sae: int, limit: int = SAMPLED_FIRINGS) -> None:
        if d_sae > MAX_FEATURES:
            raise ValueError(f"A dictionary of {d_sae:,} features: {MAX_FEATURES:,} at most.")
        self.d_sae, self.limit = d_sae, limit
        self.keys = np.zeros(0, np.uint64)
        """(feature, half, code), sorted"""
        self.totals = np.zeros(2 * d_sae, np.int64)
        """[2 · d_sae] all firings, by feature and half"""
        self._added: list[np.ndarray] = []
        self._n_added = 0
        self._highest = np.full(2 * d_sae, _MASK, np.uint64)
        """[2 · d_sae] code that a firing must not exceed to enter, by feature and half"""

    def add(self, feature: np.ndarray, half: np.ndarray, code: np.ndarray) -> None:
        """Firings [m]: their features, and the half and code of the positions."""
        group = feature.astype(np.int64) * 2 + half
        self.totals += np.bincount(group, minlength=len(self.totals))
        rows = np.flatnonzero(code <= self._highest.take(group))
        self._take((group[rows].astype(np.uint64) << _BITS) | code[rows])

    def absorb(self, other: "FiringSample") -> None:
        other.settle()
        self.totals += other.totals
        self._take(other.keys)

    def _take(self, keys: np.ndarray) -> None:
        self._added.append(keys)
        self._n_added += len(keys)
        if self._n_added > SLACK + len(self.keys) // 2:
            self.settle()

    @property
    def judged(self) -> np.ndarray:
        """[d_sae] all firings in the half of the passages that names are judged on."""
        return self.totals.reshape(-1, 2)[:, JUDGING].copy()

    def settle(self) -> None:
        """Drop what is beyond the limit."""
        if self._added:
            keys = np.concatenate([self.keys, *self._added])
            self._added, self._n_added = [], 0
            keys.sort()
            self._cut(keys)

    def refill(self) -> None:
        """After `keys` was set."""
        self._cut(self.keys)

    def _cut(self, keys: np.ndarray) -> None:
        counts = np.bincount((keys >> _BITS).astype(np.int64), minlength=2 * self.d_sae)
        ends = counts.cumsum()
        rank = np.arange(len(keys)) - np.repeat(ends - counts, counts)
        self.keys = keys[rank < self.limit]
        full = np.flatnonzero(counts >= self.limit)
        self._highest[full] = keys[(ends - counts)[full] + self.limit - 1] & _MASK

    def passages(self) -> np.ndarray:
        """The passages of its firings, those added since the last `settle` included."""
        return np.unique(places_of(np.concatenate([self.keys, *self._added]) & _MASK)[0])

    def places(self, first: int, last: int) -> SampledPlaces:
        """The sample of the features from `first` to `last` − 1."""
        self.settle()
        ends = np.searchsorted(self.keys, np.array([first, last]).astype(np.uint64) << np.uint64(41))
        keys = self.keys[ends[0] : ends[1]]
        group = (keys >> _BITS).astype(np.int64)
        return SampledPlaces(group >> 1, group & 1, *places_of(keys & _MASK))

    def counts(self) -> np.ndarray:
        """[d_sae] firings in the sample."""
        self.settle()
        return np.bincount((self.keys >> np.uint64(41)).astype(np.int64), minlength=self.d_sae)


class RelationCounts:
    """Positions of either half at which each relation to each word holds. Merged by addition."""

    def __init__(self, vocab: int) -> None:
        self.counts = np.zeros((2, len(RELATIONS), vocab), np.int64)
        self.positions = np.zeros(2, np.int64)

    def add(self, text: FlatText, halves: np.ndarray, words: np.ndarray) -> None:
        """Count the encoded positions of a text; halves [passages] of the passages, words [vocab] of the
        tokens.
        """
        half = halves[text.row]
        self.positions += np.bincount(half, minlength=2)
        for relation, tokens in enumerate((text.current, text.preceding, text.following)):
            self._count(relation, tokens, half, words)
        known = np.flatnonzero(text.tokens >= 0)
        row = np.searchsorted(text.starts, known, side="right") - 1
        word = words[text.tokens[known]].astype(np.int64)
        order = np.argsort(word * len(text.tokens) + known)
        known, row, word = known[order], row[order], word[order]
        following = np.append(known[1:], len(text.tokens))
        following[np.flatnonzero(word[1:] != word[:-1])] = len(text.tokens)
        last = np.minimum(known + FARTHEST, (text.starts + text.lengths)[row] - 1)
        n = np.minimum(last, following + NEAREST - 1) - (known + NEAREST) + 1
        self._add(len(RELATIONS) - 1, word, halves[row], np.maximum(n, 0))

    def _count(self, relation: int, tokens: np.ndarray, half: np.ndarray, words: np.ndarray) -> None:
        known = tokens >= 0
        self._add(relation, words[tokens[known]], half[known], None)

    def _add(self, relation: int, word: np.ndarray, half: np.ndarray, times: np.ndarray | None) -> None:
        vocab = self.counts.shape[-1]
        counted = np.bincount(half * vocab + word, times, 2 * vocab)
        self.counts[:, relation] += counted.astype(np.int64).reshape(2, vocab)

    def absorb(self, other: "RelationCounts") -> None:
        self.counts += other.counts
        self.positions += other.positions

    def rates(self, half: int | None = None) -> Rates:
        """Of one half, or of both together."""
        if half is None:
            return Rates(self.counts.sum(0), int(self.positions.sum()))
        return Rates(self.counts[half], int(self.positions[half]))


class PassageWords:
    """The words of the passages that sampled firings are in, laid out flat."""

    def __init__(self, passages: Mapping[int, np.ndarray], words: np.ndarray) -> None:
        """passages: token ids by number; words [vocab] of the tokens."""
        self._ids = np.array(sorted(passages), np.int64)
        text = FlatText([passages[number] for number in self._ids.tolist()], filters=False)
        self._starts = text.starts
        self._words = np.where(text.tokens >= 0, words[text.tokens], -1)
        self._units = np.unique(passage_hashes(text), return_inverse=True)[1]

    def units(self, passage: np.ndarray) -> np.ndarray:
        """[m] numbers of the passages' texts: equal passages are one unit."""
        return self._units[np.searchsorted(self._ids, passage)]

    def around(self, passage: np.ndarray, position: np.ndarray) -> np.ndarray:
        """[m, 3 + FARTHEST − NEAREST + 1] as `Surroundings.words`."""
        assert FARTHEST <= NEAR
        place = self._starts[np.searchsorted(self._ids, passage)] + position
        offsets = np.concatenate([[0, -1, 1], np.arange(-FARTHEST, -NEAREST + 1)])
        return self._words[place[:, None] + offsets]
