"""What a feature has to do with a word: it fires on it, after it, before it or near it.

A name (a relation and up to three words) is chosen on one half of the passages (`choose`) and judged on the
other (`judge`). The passage is the unit of the interval and of the p-value, because a text repeats itself: a
firing is no independent trial. `verdicts` decides what a name is worth, and nothing else does.
docs/evidence.md describes all of it, with the rate at which it is wrong.
"""

from typing import NamedTuple

import numpy as np
import torch

from lexiscope.evidence.significance import benjamini_hochberg, poisson_tail
from lexiscope.runs import run_lengths, run_starts

RELATIONS = ("on", "after", "before", "near")
"""The word is the token at the position; the one before it; the one after it; among those NEAREST to
FARTHEST tokens before it.
"""
NEAR = RELATIONS.index("near")
NEAREST, FARTHEST = 2, 16
COMMONEST = 100
"""Words that are near everything, and so are no names of that relation."""
MAX_WORDS = 3
MIN_FIRINGS, MIN_PASSAGES = 3, 3
"""Firings that must speak for a word before it can name a feature, and passages that they must come from."""
MIN_ADDED = 0.05
"""Share of the firings that each further word must add."""

VERDICTS = ("specific", "partial", "weak", "none", "untested", "dead")
"""from best to worst"""
JUDGED_FIRINGS, JUDGED_PASSAGES = 20, 5
"""Below these a feature is `untested`."""
SPECIFIC, PARTIAL = 0.5, 0.1
"""Least lower end of the share's interval."""
MIN_LIFT = 5.0
"""Least share over chance, of `specific` and `partial` names and of each further word."""
Q = 0.05


class Surroundings(NamedTuple):
    """m firings with the words around them, sorted by feature; −1 where there is no word."""

    feature: np.ndarray
    passage: np.ndarray
    """number of the passage, below 2^24"""
    words: np.ndarray
    """[m, 3 + FARTHEST − NEAREST + 1] the words on, after (the token before) and before (the token after)
    the position, then those near it
    """


class Rates(NamedTuple):
    """How often each relation to each word holds over all positions of one half of the text."""

    counts: np.ndarray
    """[RELATIONS, vocab] positions, by word"""
    positions: int

    def of(self, relation: int) -> np.ndarray:
        """[vocab] share of the positions."""
        return self.counts[relation] / max(self.positions, 1)


class RelationNames(NamedTuple):
    """Names of features [d_sae]."""

    relation: np.ndarray
    """index into RELATIONS, −1 where there is no name"""
    words: np.ndarray
    """[d_sae, MAX_WORDS], −1 where there is none"""

    @classmethod
    def empty(cls, d_sae: int) -> "RelationNames":
        return cls(np.full(d_sae, -1, np.int64), np.full((d_sae, MAX_WORDS), -1, np.int64))

    def take(self, features: np.ndarray) -> "RelationNames":
        return RelationNames(self.relation[features], self.words[features])


class JudgedNames(NamedTuple):
    """What the other half of the passages says of names [d_sae]; shares are 0 where nothing was judged."""

    firings: np.ndarray
    """judged"""
    passages: np.ndarray
    """that these firings are in"""
    cumulative: np.ndarray
    """[d_sae, MAX_WORDS] share of the firings in relation to the first word, the first two, all three"""
    low: np.ndarray
    high: np.ndarray
    """95 % interval of the share"""
    chance: np.ndarray
    p: np.ndarray
    """1 where there is no name"""

    @property
    def share(self) -> np.ndarray:
        return self.cumulative[:, -1]

    @property
    def lift(self) -> np.ndarray:
        return self.share / np.maximum(self.chance, 1e-12)

    @property
    def tested(self) -> np.ndarray:
        """[d_sae] bool: enough firings in enough passages."""
        return (self.firings >= JUDGED_FIRINGS) & (self.passages >= JUDGED_PASSAGES)

    def q(self, live: np.ndarray) -> np.ndarray:
        """[d_sae] false-discovery-rate q-values over the live features that were tested; 1 elsewhere."""
        tested = torch.from_numpy(live & self.tested)
        return benjamini_hochberg(torch.from_numpy(self.p), tested).numpy()


class _Pairs(NamedTuple):
    """Distinct (feature, word) pairs, sorted."""

    feature: np.ndarray
    word: np.ndarray
    firings: np.ndarray
    passages: np.ndarray


class _Entries(NamedTuple):
    """Each word of each firing in one relation, once."""

    row: np.ndarray
    """of the firings"""
    word: np.ndarray

    def kept(self, chosen: np.ndarray) -> "_Entries":
        return _Entries(self.row[chosen], self.word[chosen])


def common_words(rates: Rates) -> np.ndarray:
    """The COMMONEST words of a text, which `near` leaves out."""
    order = np.argsort(-rates.counts[0], kind="stable")[:COMMONEST]
    return order[rates.counts[0][order] > 0]


def choose(firings: Surroundings, rates: Rates, common: np.ndarray, d_sae: int) -> RelationNames:
    """Of each feature, the relation and word of largest share · log(share / rate), with MIN_FIRINGS firings
    in MIN_PASSAGES passages; then further words of that relation, each the one of largest added share ·
    log(added share / rate), as long as it adds MIN_ADDED of the firings and MIN_LIFT times its rate.

    Of equals the first relation and the smallest word are taken. `rates` are those of the same passages, and
    `common` the words that are no names of `near`.
    """
    names = RelationNames.empty(d_sae)
    n = np.bincount(firings.feature, minlength=d_sae)
    best = np.zeros(d_sae)
    for relation in range(len(RELATIONS)):
        found = _best_words(_entries(firings, relation, common), firings, n, rates.of(relation))
        better = found.score > best[found.feature]
        feature = found.feature[better]
        best[feature], names.relation[feature] = found.score[better], relation
        names.words[feature, 0] = found.word[better]
    for relation in range(len(RELATIONS)):
        own = names.relation == relation
        entries = _entries(firings, relation, common, own[firings.feature])
        for place in range(1, MAX_WORDS):
            last = names.words[:, place - 1][firings.feature[entries.row]]
            covered = np.zeros(len(firings.feature), bool)
            covered[entries.row[entries.word == last]] = True
            entries = entries.kept(~covered[entries.row] & (last >= 0))
            more = _best_words(entries, firings, n, rates.of(relation), added=True)
            names.words[more.feature, place] = more.word
    return names


class _BestWords(NamedTuple):
    """One word a feature, of the features that have one."""

    feature: np.ndarray
    word: np.ndarray
    score: np.ndarray


def _best_words(
    entries: _Entries, firings: Surroundings, n: np.ndarray, rate: np.ndarray, *, added: bool = False
) -> _BestWords:
    pairs = _pairs(entries, firings)
    share = pairs.firings / np.maximum(n[pairs.feature], 1)
    least = np.maximum(rate[pairs.word], 1e-12)
    score = share * np.log(np.maximum(share, 1e-300) / least)
    able = (pairs.firings >= MIN_FIRINGS) & (pairs.passages >= MIN_PASSAGES) & (score > 0)
    if added:
        able &= (share >= MIN_ADDED) & (share >= MIN_LIFT * least)
    feature, word, score = pairs.feature[able], pairs.word[able], score[able]
    order = np.lexsort((word, -score, feature))
    order = order[run_starts(feature[order])]
    return _BestWords(feature[order], word[order], score[order])


def _entries(
    firings: Surroundings, relation: int, common: np.ndarray, among: np.ndarray | None = None
) -> _Entries:
    """Of the firings `among` [m] bool."""
    rows = np.arange(len(firings.feature)) if among is None else np.flatnonzero(among)
    if relation != NEAR:
        word = firings.words[:, relation][rows]
        known = word >= 0
        return _Entries(rows[known], word[known])
    near = np.sort(firings.words[rows, NEAR:], axis=1)
    once = near >= 0
    once[:, 1:] &= near[:, 1:] != near[:, :-1]
    once &= ~np.isin(near, common)
    at, column = np.nonzero(once)
    return _Entries(rows[at], near[at, column])


def _pairs(entries: _Entries, firings: Surroundings) -> _Pairs:
    if not len(entries.row):
        nothing = np.zeros(0, np.int64)
        return _Pairs(nothing, nothing, nothing, nothing)
    first = int(firings.feature[0])
    width, passages = int(entries.word.max()) + 1, int(firings.passage.max()) + 1
    pair = (firings.feature[entries.row].astype(np.int64) - first) * width + entries.word
    keys = pair * passages + firings.passage[entries.row]
    keys.sort()
    each = run_starts(keys)
    counts = run_lengths(each, len(keys))
    pair = keys[each] // passages
    starts = run_starts(pair)
    feature, word = np.divmod(pair[starts], width)
    in_passages = run_lengths(starts, len(pair))
    return _Pairs(feature + first, word, np.add.reduceat(counts, starts), in_passages)


def judge(
    firings: Surroundings, names: RelationNames, rates: Rates, controls: np.ndarray, d_sae: int
) -> JudgedNames:
    """The shares of names on firings that did not choose them; `rates` of the same passages; controls [vocab,
    draws] words as frequent as each.

    Chance is the larger of two: the rate in the text, summed over the name's words, and the mean share of the
    control words in their place, without those that are words of the name. The interval is `interval`'s. The
    p-value is the Poisson tail of the number of passages with at least one hit, whose expectation is the sum
    of 1 − (1 − chance)^firings over passages: more than it is where hits come together, and the Poisson tail
    bounds that of unequal chances (Hoeffding 1956).
    """
    feature = firings.feature
    relation, words = names.relation[feature], names.words[feature]
    hits = np.stack([_hits(firings, relation, words[:, : upto + 1]) for upto in range(MAX_WORDS)], 1)
    n = np.bincount(feature, minlength=d_sae)
    each = np.maximum(n, 1)
    cumulative = np.stack([np.bincount(feature, column, d_sae) for column in hits.T], 1) / each[:, None]
    by_control = np.zeros(d_sae)
    for drawn in controls.T:
        swapped = np.where(words >= 0, drawn[words], -1)
        swapped[(swapped[:, :, None] == words[:, None]).any(-1)] = -1
        by_control += np.bincount(feature, _hits(firings, relation, swapped), d_sae)
    by_rate = np.zeros(d_sae)
    named = np.flatnonzero(names.relation >= 0)
    for word in names.words[named].T:
        rate = rates.counts[names.relation[named], word] / max(rates.positions, 1)
        by_rate[named] += np.where(word >= 0, rate, 0)
    chance = np.maximum(np.minimum(by_rate, 1), by_control / (each * max(controls.shape[1], 1)))
    clusters = _clusters(firings, hits[:, -1])
    low, high = interval(clusters, d_sae)
    expected = np.bincount(
        clusters.feature,
        -np.expm1(clusters.firings * np.log1p(-chance[clusters.feature] * (1 - 1e-12))),
        d_sae,
    )
    met = np.bincount(clusters.feature, clusters.hits > 0, d_sae)
    p = poisson_tail(torch.from_numpy(met), torch.from_numpy(expected)).numpy()
    passages = np.bincount(clusters.feature, minlength=d_sae)
    return JudgedNames(n, passages, cumulative, low, high, chance, np.where(names.relation >= 0, p, 1.0))


def _hits(firings: Surroundings, relation: np.ndarray, words: np.ndarray) -> np.ndarray:
    """[m] bool: the relation [m] to any of the words [m, w] holds at the firing."""
    hit = np.zeros(len(relation), bool)
    for number in range(len(RELATIONS)):
        rows = np.flatnonzero(relation == number)
        around = firings.words[rows, NEAR:] if number == NEAR else firings.words[rows, number : number + 1]
        for word in words[rows].T:
            hit[rows] |= ((around == word[:, None]) & (word >= 0)[:, None]).any(1)
    return hit


class Clusters(NamedTuple):
    """Firings and hits of each feature in each passage where it fires."""

    feature: np.ndarray
    firings: np.ndarray
    hits: np.ndarray


def _clusters(firings: Surroundings, hit: np.ndarray) -> Clusters:
    key = firings.feature.astype(np.int64) << 24 | firings.passage
    order = np.argsort(key, kind="stable")
    starts = run_starts(key[order])
    if not len(starts):
        nothing = np.zeros(0, np.int64)
        return Clusters(nothing, nothing, nothing)
    counts = run_lengths(starts, len(order))
    return Clusters(
        firings.feature[order[starts]], counts, np.add.reduceat(hit[order].astype(np.int64), starts)
    )


def interval(clusters: Clusters, d_sae: int) -> tuple[np.ndarray, np.ndarray]:
    """[d_sae] ends of the 95 % interval of each feature's hits / firings, with the passage as the unit.

    Wilson's interval (1927) on an effective number of firings, share · (1 − share) / V, where V is the
    variance of the ratio over clusters (Cochran 1977, §6.3); at most the firings. Where all firings hit, or
    none, V says nothing, and the effective number is that of passages of equal size, (Σ n)² / Σ n². The
    normal quantile is widened to Student's with passages − 1 degrees of freedom.
    """

    def total(values: np.ndarray) -> np.ndarray:
        return np.bincount(clusters.feature, values, d_sae)

    n, passages = total(clusters.firings), np.bincount(clusters.feature, minlength=d_sae)
    share = total(clusters.hits) / np.maximum(n, 1)
    off = clusters.hits - share[clusters.feature] * clusters.firings
    spread = share * (1 - share)
    variance = total(off**2) * passages / np.maximum(passages - 1, 1) / np.maximum(n, 1) ** 2
    by_passage = n**2 / np.maximum(total(clusters.firings.astype(np.float64) ** 2), 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        effective = np.where(variance > 0, spread / variance, by_passage)
    effective = np.clip(effective, 1e-9, np.maximum(n, 1))
    t = _student(np.maximum(passages - 1, 1))
    centre = (share + t**2 / (2 * effective)) / (1 + t**2 / effective)
    half = t / (1 + t**2 / effective) * np.sqrt(spread / effective + (t / (2 * effective)) ** 2)
    known = n > 0
    return np.where(known, np.clip(centre - half, 0, 1), 0), np.where(known, np.clip(centre + half, 0, 1), 0)


def _student(freedom: np.ndarray) -> np.ndarray:
    """The 0.975 quantile of Student's t: Abramowitz & Stegun (1964) 26.7.5, within 2 % from four degrees of
    freedom on.
    """
    z = 1.959964
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    found = np.full(len(freedom), z)
    for power, term in enumerate(terms, 1):
        found += term / freedom.astype(np.float64) ** power
    return found


def verdicts(live: np.ndarray, judged: JudgedNames) -> np.ndarray:
    """[d_sae] what each name is worth, as text: `dead` where the feature is not live; `untested` below
    JUDGED_FIRINGS judged firings or JUDGED_PASSAGES passages; by the q-value, the lift and the lower end of
    the share `specific`, `partial` or `weak`; else `none`. The one place that decides.
    """
    holds = judged.q(live) <= Q
    lifted = holds & (judged.lift >= MIN_LIFT)
    cases = {
        "dead": ~live,
        "untested": ~judged.tested,
        "specific": lifted & (judged.low >= SPECIFIC),
        "partial": lifted & (judged.low >= PARTIAL),
        "weak": holds,
    }
    return np.select(list(cases.values()), list(cases), "none")
