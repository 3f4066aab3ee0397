"""The sample of firings and the counts of relations equal obvious ones, and do not depend on the split."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lexiscope.evidence import (
    FlatText,
    PassageWords,
    RelationCounts,
    RelationEvidence,
    SampledText,
    halves_of,
    place_codes,
    relation_evidence,
)
from lexiscope.evidence.firing_sample import FiringSample, places_of
from lexiscope.evidence.flat_text import mix
from lexiscope.evidence.relations import FARTHEST, NEAREST, RELATIONS

VOCAB, RARE = 9, 123


def passages(seed: int, n: int = 12) -> list[np.ndarray]:
    draw = np.random.default_rng(seed)
    return [draw.integers(0, VOCAB, draw.integers(1, 40)).astype(np.int32) for _ in range(n)]


@given(st.lists(st.tuples(st.integers(0, 2**24 - 1), st.integers(0, 2**16 - 1)), min_size=1))
def test_a_code_stands_for_one_place(places: list[tuple[int, int]]) -> None:
    passage, position = np.array(places).T
    codes = place_codes(passage, position)
    assert (codes < 2**40).all()
    assert len(np.unique(codes)) == len(set(places))
    assert [part.tolist() for part in places_of(codes)] == [passage.tolist(), position.tolist()]


def test_codes_are_uniform() -> None:
    codes = place_codes(np.repeat(np.arange(200), 100), np.tile(np.arange(100), 200)) / 2**40
    assert codes.mean() == pytest.approx(0.5, abs=0.01)
    counts = np.histogram(codes, 20, (0, 1))[0]
    assert abs(counts - 1000).max() < 150
    assert abs(np.corrcoef(codes[:-1], codes[1:])[0, 1]) < 0.03


@given(seed=st.integers(0, 50), limit=st.integers(1, 30), cuts=st.lists(st.integers(0, 400), max_size=4))
def test_the_sample_is_the_firings_of_lowest_code_under_any_split(
    seed: int, limit: int, cuts: list[int]
) -> None:
    draw = np.random.default_rng(seed)
    place = draw.permutation(4000)[:400]
    feature, passage, position = place % 5, place // 5 % 40, place // 200
    half, code = passage % 2, place_codes(passage, position)
    expected = sorted(
        row
        for f in range(5)
        for h in range(2)
        for row in sorted(
            (int(f), int(h), int(c)) for g, k, c in zip(feature, half, code, strict=True) if (g, k) == (f, h)
        )[:limit]
    )
    whole = FiringSample(5, limit)
    for rows in np.split(draw.permutation(400), sorted(cuts)):
        part = FiringSample(5, limit)
        part.add(feature[rows], half[rows], code[rows])
        if draw.random() < 0.5:
            part.settle()
        whole.absorb(part)
    found = whole.places(0, 5)
    codes = place_codes(found.passage, found.position)
    assert sorted(zip(found.feature.tolist(), found.half.tolist(), codes.tolist(), strict=True)) == expected
    assert len(whole.places(2, 4).feature) == sum(row[0] in (2, 3) for row in expected)
    assert whole.counts().tolist() == [sum(row[0] == f for row in expected) for f in range(5)]
    assert set(whole.passages()) == set(found.passage)
    assert whole.totals.tolist() == np.bincount(feature * 2 + half, minlength=10).tolist()


@pytest.mark.parametrize("first", [0, 1])
def test_relations_are_counted_at_every_position(first: int) -> None:
    texts, words = passages(3), np.array([0, 0, 2, 2, 4, 5, 5, 5, 8])
    text = FlatText(texts, first=first)
    counts = RelationCounts(VOCAB)
    counts.add(text, halves_of(text), words)
    slow: Counter[tuple[int, int, int]] = Counter()
    n = Counter()
    for half, tokens in zip(halves_of(text).tolist(), texts, strict=True):
        own = words[tokens]
        for at in range(first, len(own)):
            n[half] += 1
            near = set(own[max(0, at - FARTHEST) : max(0, at - NEAREST + 1)].tolist())
            held = [{int(own[at])}, set(own[at - 1 : at].tolist()), set(own[at + 1 : at + 2].tolist()), near]
            for relation, some in enumerate(held):
                for word in some:
                    slow[half, relation, word] += 1
    assert counts.positions.tolist() == [n[0], n[1]]
    for half in range(2):
        expected = [[slow[half, r, word] for word in range(VOCAB)] for r in range(len(RELATIONS))]
        assert counts.rates(half).counts.tolist() == expected
    parts = RelationCounts(VOCAB)
    for some in (texts[:5], texts[5:]):
        part = FlatText(some, first=first)
        one = RelationCounts(VOCAB)
        one.add(part, halves_of(part), words)
        parts.absorb(one)
    assert np.array_equal(parts.counts, counts.counts) and np.array_equal(parts.positions, counts.positions)


def test_equal_passages_are_one_unit_of_one_half() -> None:
    texts = [*passages(1, 6), *passages(1, 3)]
    text = FlatText(texts)
    assert halves_of(text)[:3].tolist() == halves_of(text)[6:].tolist()
    held = PassageWords(dict(enumerate(texts)), np.arange(VOCAB, dtype=np.int32))
    units = held.units(np.arange(9))
    assert units[:3].tolist() == units[6:].tolist() and len(set(units)) == 6
    halves = halves_of(FlatText([np.array([0, a, b]) for a in range(VOCAB) for b in range(VOCAB)]))
    assert 0.3 < halves.mean() < 0.7


def test_words_around_a_position_do_not_reach_into_other_passages() -> None:
    texts = {3: np.array([1, 2, 3]), 7: np.arange(VOCAB)}
    around = PassageWords(texts, np.arange(VOCAB, dtype=np.int32)).around(np.array([3, 7]), np.array([2, 4]))
    assert around[:, :3].tolist() == [[3, 2, -1], [4, 3, 5]]
    assert around[0, 3:].tolist() == [-1] * (FARTHEST - 2) + [1]
    assert around[1, 3:].tolist() == [-1] * (FARTHEST - 4) + [0, 1, 2]


def evidence(texts: list[np.ndarray], parts: list[list[int]], *, limit: int = 40) -> RelationEvidence:
    """Of five features that fire on, after and before word 7, near word RARE, and anywhere; from the passages
    of each part by itself.
    """
    vocab = 300
    words = np.arange(vocab, dtype=np.int32)
    sample, counts = FiringSample(6, limit), RelationCounts(vocab)
    for numbers in parts:
        text = FlatText([texts[number] for number in numbers])
        halves, passage = halves_of(text), np.array(numbers)[text.row]
        holds = [text.current == 7, text.preceding == 7, text.following == 7]
        holds += [(text.tokens[text.place - NEAREST - 3] == RARE), mix(text.current + 9) < 2**60]
        part, own = FiringSample(6, limit), RelationCounts(vocab)
        for feature, held in enumerate(holds):
            at = np.flatnonzero(held)
            codes = place_codes(passage[at], text.position[at])
            part.add(np.full(len(at), feature), halves[text.row[at]], codes)
        own.add(text, halves, words)
        sample.absorb(part)
        counts.absorb(own)
    read = SampledText(PassageWords(dict(enumerate(texts)), words), counts)
    return relation_evidence(sample, read, np.arange(6) < 5)


def test_names_are_found_and_judged_alike_under_any_split() -> None:
    draw = np.random.default_rng(0)
    texts = [draw.integers(0, 300, 60).astype(np.int32) for _ in range(400)]
    for tokens in texts:
        tokens[tokens == RARE] = 0
        tokens[draw.integers(20, 40)] = 7
        tokens[draw.integers(1, 3) * 3] = RARE if draw.random() < 0.15 else 0
    whole = evidence(texts, [list(range(400))])
    assert whole.names.relation[:4].tolist() == [0, 1, 2, 3]
    assert whole.names.words[:4, 0].tolist() == [7, 7, 7, RARE]
    assert whole.verdict[:4].tolist() == ["specific"] * 4 and whole.verdict[5] == "dead"
    order = draw.permutation(400).tolist()
    split = evidence(texts, [order[:10], order[10:250], order[250:]])
    assert np.array_equal(split.verdict, whole.verdict) and split.finds == whole.finds
    for one, other in zip((*whole.names, *whole.judged), (*split.names, *split.judged), strict=True):
        assert np.array_equal(one, other)
