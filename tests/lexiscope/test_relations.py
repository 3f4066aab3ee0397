"""Names with a relation equal a slow count, find what was planted, and are rarely given where nothing was."""

from collections import Counter, defaultdict
from math import exp, factorial, log

import numpy as np
import pytest
import torch

from lexiscope.evidence.families import matched_controls
from lexiscope.evidence.relation_evidence import RelationEvidence, found_words
from lexiscope.evidence.relations import (
    COMMONEST,
    FARTHEST,
    MAX_WORDS,
    MIN_ADDED,
    MIN_LIFT,
    NEAREST,
    RELATIONS,
    VERDICTS,
    Clusters,
    JudgedNames,
    Rates,
    RelationNames,
    Surroundings,
    choose,
    common_words,
    interval,
    judge,
    verdicts,
)
from lexiscope.evidence.words import shown_tokens, words_of
from lexiscope.measures import OFTEN
from lexiscope.metrics import bootstrap_mean

OFFSETS = (0, -1, 1, *range(-FARTHEST, -NEAREST + 1))


def test_tokens_of_one_word_differ_in_case_space_or_inflection_alone() -> None:
    pieces = ["cat", " cat", " Cat", " cats", "cats", " car", " card", " use", " used", " using", " us"]
    pieces += [" str", " string", " this", " thi", " see", " seed", " 5", "5", ".", " .", " real", " really"]
    raws = [piece.encode() for piece in pieces] + [b"\xe2\x80", b"\xe2\x81"]
    words = words_of(raws)
    groups = defaultdict(set)
    for raw, word in zip(raws, words, strict=True):
        groups[word].add(raw)
        assert word <= raws.index(raw)
    several = sorted(sorted(group) for group in groups.values() if len(group) > 1)
    assert several == [
        [b" Cat", b" cat", b" cats", b"cat", b"cats"],
        [b" real", b" really"],
        [b" use", b" used"],
    ]
    shown = shown_tokens(words, np.array([1, 3, 0, 3, *[0] * 22])[: len(raws)])
    assert [raws[token] for token in shown[:1]] == [b" cat"]
    assert shown[raws.index(b" car")] == raws.index(b" car")


class Text:
    """Passages of words, and firings of features on them: two halves by the passage's number."""

    def __init__(self, passages: np.ndarray, firings: dict[int, list[tuple[int, int]]], vocab: int) -> None:
        """firings: feature → (passage, position)."""
        self.passages, self.vocab = passages, vocab
        self.firings = {feature: sorted(set(places)) for feature, places in firings.items()}

    def word(self, passage: int, position: int) -> int:
        inside = 0 <= position < self.passages.shape[1]
        return int(self.passages[passage, position]) if inside else -1

    def surroundings(self, half: int) -> Surroundings:
        rows = [
            (feature, passage, [self.word(passage, position + offset) for offset in OFFSETS])
            for feature in sorted(self.firings)
            for passage, position in self.firings[feature]
            if passage % 2 == half
        ]
        words = np.array([row[2] for row in rows], np.int32).reshape(-1, len(OFFSETS))
        feature, passage = (np.array([row[at] for row in rows], np.int64) for at in (0, 1))
        return Surroundings(feature, passage, words)

    def holding(self, relation: int, passage: int, position: int) -> set[int]:
        offsets = OFFSETS[3:] if relation == 3 else OFFSETS[relation : relation + 1]
        return {self.word(passage, position + offset) for offset in offsets} - {-1}

    def rates(self, half: int) -> Rates:
        counts, n = np.zeros((len(RELATIONS), self.vocab), np.int64), 0
        for passage in range(half, len(self.passages), 2):
            for position in range(1, self.passages.shape[1]):
                n += 1
                for relation in range(len(RELATIONS)):
                    for word in self.holding(relation, passage, position):
                        counts[relation, word] += 1
        return Rates(counts, n)


def random_text(
    seed: int, *, vocab: int = 40, features: int = 12, passages: int = 40, length: int = 30
) -> Text:
    draw = np.random.default_rng(seed)
    words = draw.zipf(1.5, (passages, length)).clip(1, vocab) - 1
    firings = {
        feature: list(
            zip(draw.integers(0, passages, 60).tolist(), draw.integers(1, length, 60).tolist(), strict=True)
        )
        for feature in range(features)
    }
    return Text(words, firings, vocab)


def slow_name(text: Text, feature: int, rates: Rates, common: set[int]) -> tuple[int, list[int]]:
    """The definition, one feature and one word at a time."""
    places = [place for place in text.firings[feature] if place[0] % 2 == 0]

    def held(relation: int, word: int, among: list[tuple[int, int]]) -> list[tuple[int, int]]:
        return [place for place in among if word in text.holding(relation, *place)]

    def score(relation: int, word: int, among: list[tuple[int, int]]) -> tuple[float, float]:
        found = held(relation, word, among)
        share = len(found) / len(places) if places else 0.0
        if len(found) < 3 or len({passage for passage, _ in found}) < 3:
            return -1.0, share
        rate = rates.of(relation)[word]
        return share * log(share / rate), share

    best = (0.0, -1, -1)
    for relation in range(len(RELATIONS)):
        for word in range(text.vocab):
            if relation == 3 and word in common:
                continue
            value = score(relation, word, places)[0]
            if value > best[0] + 1e-12:
                best = (value, relation, word)
    _, relation, word = best
    if relation < 0:
        return -1, []
    words, left = [word], places
    while len(words) < MAX_WORDS:
        left = [place for place in left if place not in held(relation, words[-1], left)]
        more = (0.0, -1)
        for other in range(text.vocab):
            value, share = score(relation, other, left)
            rate = rates.of(relation)[other]
            able = share >= MIN_ADDED and share >= MIN_LIFT * rate and not (relation == 3 and other in common)
            if able and value > more[0] + 1e-12:
                more = (value, other)
        if more[1] < 0:
            break
        words.append(more[1])
    return relation, words


@pytest.mark.parametrize("seed", range(4))
def test_names_are_those_of_the_definition(seed: int) -> None:
    text = random_text(seed)
    rates = text.rates(0)
    common = np.arange(3)
    names = choose(text.surroundings(0), rates, common, 13)
    assert names.relation[12] == -1
    for feature in range(12):
        relation, words = slow_name(text, feature, rates, set(common.tolist()))
        assert names.relation[feature] == relation
        assert [word for word in names.words[feature].tolist() if word >= 0] == words


def test_judging_equals_the_definition() -> None:
    text = random_text(7)
    rates, controls = text.rates(1), matched_controls(torch.arange(40)).numpy()
    draw = np.random.default_rng(0)
    names = RelationNames(
        np.arange(12) % 5 - 1, draw.permuted(np.tile(np.arange(40), (12, 1)), axis=1)[:, :3]
    )
    names.words[::3, 1:] = -1
    judged = judge(text.surroundings(1), names, rates, controls, 12)
    for feature in range(12):
        places = [place for place in text.firings[feature] if place[0] % 2 == 1]
        relation, words = int(names.relation[feature]), [w for w in names.words[feature].tolist() if w >= 0]
        assert judged.firings[feature] == len(places)
        by_passage = Counter(passage for passage, _ in places)
        assert judged.passages[feature] == len(by_passage)
        if relation < 0:
            assert judged.p[feature] == 1 and judged.share[feature] == 0
            continue

        def share(of: list[int]) -> tuple[float, set[int]]:
            hits = [p for p in places if set(of) & text.holding(relation, *p)]  # noqa: B023
            return len(hits) / len(places), {passage for passage, _ in hits}  # noqa: B023

        for upto in range(3):
            assert judged.cumulative[feature, upto] == pytest.approx(share(words[: upto + 1])[0])
        drawn = np.mean(
            [share(sorted(set(controls[words, at]) - set(words)))[0] for at in range(controls.shape[1])]
        )
        rate = sum(rates.of(relation)[word] for word in words)
        chance = max(min(rate, 1), drawn)
        assert judged.chance[feature] == pytest.approx(chance)
        expected = sum(1 - (1 - chance) ** n for n in by_passage.values())
        met = len(share(words)[1])
        tail = 1 - sum(exp(-expected) * expected**k / factorial(k) for k in range(met))
        assert judged.p[feature] == pytest.approx(tail, abs=1e-9)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_the_interval_is_that_of_resampled_passages(share: float) -> None:
    draw = np.random.default_rng(1)
    firings = draw.integers(1, 6, 150)
    bursty = draw.beta(share * 2, (1 - share) * 2, 150)
    hits = draw.binomial(firings, bursty)
    low, high = interval(Clusters(np.zeros(150, np.int64), firings, hits), 1)
    resampled = bootstrap_mean(torch.from_numpy(hits), torch.from_numpy(firings))
    assert (low[0], high[0]) == pytest.approx(resampled, abs=0.015)


def test_a_share_of_one_is_as_sure_as_its_passages_are_many() -> None:
    features = np.repeat([0, 1], [5, 50])
    low, high = interval(Clusters(features, np.full(55, 4), np.full(55, 4)), 2)
    assert high == pytest.approx([1, 1])
    assert 0.35 < low[0] < 0.5 and low[1] > 0.9


def planted(seed: int = 0, *, features: int = 80, vocab: int = 400) -> tuple[Text, np.ndarray, np.ndarray]:
    """A bursty text, and features that fire in one relation to one word, with other firings between: each
    feature's relation and word.
    """
    draw = np.random.default_rng(seed)
    passages = draw.integers(0, vocab, (320, 60))
    for row in passages:  # a text repeats its words
        row[draw.random(60) < 0.3] = draw.integers(0, vocab)
    relation, word = np.arange(features) % 4, draw.permutation(vocab)[:features]
    firings: dict[int, list[tuple[int, int]]] = {}
    for feature in range(features):
        where = np.argwhere(passages == word[feature])
        offset = (0, 1, -1, None)[relation[feature]]
        moved = [
            (int(p), int(at) + (offset if offset is not None else int(draw.integers(NEAREST, FARTHEST + 1))))
            for p, at in where
        ]
        inside = [(p, at) for p, at in moved if 1 <= at < 60]
        noise = zip(
            draw.integers(0, 320, len(inside) // 3), draw.integers(1, 60, len(inside) // 3), strict=True
        )
        firings[feature] = inside + [(int(p), int(at)) for p, at in noise]
    return Text(passages, firings, vocab), relation, word


def judged_under(text: Text, names: RelationNames, n: int) -> JudgedNames:
    rates = text.rates(1)
    controls = matched_controls(torch.from_numpy(rates.counts[0])).numpy()
    return judge(text.surroundings(1), names, rates, controls, n)


def test_planted_relations_are_found_and_called_by_their_size() -> None:
    text, relation, word = planted()
    names = choose(text.surroundings(0), text.rates(0), np.zeros(0, np.int64), len(word))
    assert (names.relation == relation).mean() > 0.95
    assert (names.words[:, 0] == word).mean() > 0.95
    judged = judged_under(text, names, len(word))
    said = verdicts(np.ones(len(word), bool), judged)
    assert set(said) <= set(VERDICTS)
    held = np.isin(said, ["specific", "partial"])
    assert held[judged.tested].mean() > 0.95
    assert (judged.low <= judged.share).all() and (judged.share <= judged.high).all()


def test_permuted_names_rarely_hold_at_any_level() -> None:
    text, _, word = planted()
    names = choose(text.surroundings(0), text.rates(0), np.zeros(0, np.int64), len(word))
    said = []
    for step in range(1, 11):
        dealt = names.take(np.roll(np.arange(len(word)), 7 * step))
        said += verdicts(np.ones(len(word), bool), judged_under(text, dealt, len(word))).tolist()
    counts = Counter(said)
    tested = len(said) - counts["untested"]
    assert tested > len(said) / 2
    assert (counts["specific"] + counts["partial"] + counts["weak"]) / tested <= 0.05


def test_verdicts_follow_size_significance_and_how_much_was_judged() -> None:
    def judged(**given: float) -> JudgedNames:
        own = {"firings": 100, "passages": 50, "share": 0.8, "low": 0.7, "high": 0.9, "chance": 0.01, "p": 0}
        one = {name: np.array([value]) for name, value in (own | given).items()}
        cumulative = np.repeat(one.pop("share")[:, None], 3, 1)
        return JudgedNames(cumulative=cumulative, **one)

    live = np.ones(1, bool)
    cases: dict[str, list[dict[str, float]]] = {
        "specific": [{}, {"firings": 20, "passages": 5}, {"low": 0.5}, {"chance": 0.16}],
        "partial": [{"low": 0.49}, {"low": 0.1, "share": 0.2}],
        "weak": [{"low": 0.09}, {"chance": 0.17}],
        "none": [{"p": 0.06}],
        "untested": [{"firings": 19}, {"passages": 4}],
    }
    for verdict, several in cases.items():
        for given in several:
            assert verdicts(live, judged(**given)).tolist() == [verdict], given
    assert verdicts(~live, judged()).tolist() == ["dead"]


def test_the_shares_of_a_dictionary_are_over_its_live_and_tested_features_and_over_firings() -> None:
    verdict = np.array(["specific", "partial", "weak", "untested", "dead"])
    live, firings = np.arange(5) < 4, np.array([600, 300, 90, 10, 5])
    shares, chance = np.array([0.9, 0.3, 0.2, 0.8, 1.0]), np.array([0.01, 0.02, 0.05, 0.4, 0.5])
    judged_firings, passages, nothing = (
        np.array([100, 40, 20, 19, 99]),
        np.array([50, 20, 5, 9, 40]),
        np.zeros(5),
    )
    cumulative = np.repeat(shares[:, None], 3, 1)
    judged = JudgedNames(judged_firings, passages, cumulative, nothing, nothing, chance, nothing)
    found = RelationEvidence(RelationNames.empty(5), judged, nothing, verdict, finds=0.25)
    assert found.shares(live, firings) == {
        "holds_live": 2 / 4,
        "holds_tested": 2 / 3,
        "holds_firing": 900 / 1000,
        "specific_live": 1 / 4,
        "tested_live": 3 / 4,
        "share_tested": 0.3,
        "chance_tested": 0.02,
        "finds": 0.25,
    }
    assert found.firing_shares(firings) == {
        "specific": 600 / 1005,
        "partial": 300 / 1005,
        "weak": 90 / 1005,
        "none": 0,
        "untested": 10 / 1005,
        "dead": 5 / 1005,
    }
    assert set(found.shares(live & False, firings).values()) == {None, 0.25}


def test_a_word_is_found_by_a_detector_of_it() -> None:
    """Word 0: 8 of 10 firings on it, 10 occurrences. Word 1: half of the firings, second word. Word 2: rare.
    Word 3: fired after. Word 4: 4 of 10 firings.
    """
    words = np.array([[0, 1, -1], [2, -1, -1], [3, -1, -1], [4, -1, -1]])
    names = RelationNames(np.array([0, 0, 1, 0]), words)
    cumulative = np.array([[0.8, 0.9, 0.9], [1, 1, 1], [1, 1, 1], [0.4, 0.4, 0.4]])
    nothing = np.zeros(4)
    judged = JudgedNames(nothing, nothing, cumulative, nothing, nothing, nothing, nothing)
    firings, occurrences = np.full(4, 10), np.array([10, 100, 9, 10, 10])
    assert found_words(names, judged, firings, occurrences) == pytest.approx(1 / 4)


def test_a_share_of_nothing_is_absent_and_not_zero() -> None:
    names = RelationNames(np.zeros(2, int), np.zeros((2, 3), int))
    nothing = np.zeros(2)
    judged = JudgedNames(nothing, nothing, np.zeros((2, 3)), nothing, nothing, nothing, nothing)
    assert found_words(names, judged, nothing, np.array([OFTEN - 1, 0])) is None
    found = RelationEvidence(names, judged, nothing, np.array(["untested", "dead"]), None)
    shares = found.shares(np.array([True, False]), np.array([4, 0]))
    absent = {"holds_tested", "share_tested", "chance_tested", "finds"}
    assert {name for name, share in shares.items() if share is None} == absent
    assert shares["holds_live"] == shares["tested_live"] == 0
    assert set(found.shares(np.zeros(2, bool), np.zeros(2)).values()) == {None}
    assert found.firing_shares(np.array([4, 0]))["untested"] == 1 and not found.firing_shares(np.zeros(2))


def test_the_commonest_words_are_those_that_occur_most() -> None:
    counts = np.zeros((4, 300), np.int64)
    counts[0, 50:] = np.arange(250)
    assert sorted(common_words(Rates(counts, 1))) == list(range(300 - COMMONEST, 300))
