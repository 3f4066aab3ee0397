"""Steering at equal KL equals patching the model; what a direction writes rises above controls, and what it
does not write does not.
"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from indexer.causal.effects import write_shares
from indexer.causal.steering import KL, PREFIX_LENGTH, Ground, neutral_prefixes
from indexer.causal.writing import CONTROLS, WriteRequest, content_words, steered_writes
from lexiscope.dictionary import Dictionary
from lexiscope.evidence import matched_controls, shown_tokens, words_of
from lexiscope.language_model import LanguageModel
from lexiscope.selection import TopK

FEATURES, LAYER = 60, 0


@pytest.fixture(scope="module")
def ground(model: LanguageModel) -> Ground:
    draw = np.random.default_rng(0)
    passages = [np.concatenate([[model.bos], draw.integers(1, model.vocab_size, 19)]) for _ in range(6)]
    return Ground(model, LAYER, neutral_prefixes(passages, n=4), mean_norm=2.0)


@pytest.fixture(scope="module")
def dictionary(model: LanguageModel) -> Dictionary:
    """Its feature i is the unembedding of token i, and so writes it in a model of two layers."""
    rows = model.unembedding()
    W_dec = F.normalize(rows - rows.mean(0), dim=-1)[:FEATURES]
    return Dictionary(W_dec.T.contiguous(), torch.zeros(FEATURES), W_dec, torch.zeros(model.d_model), TopK(4))


def request(ground: Ground, dictionary: Dictionary, tokens: torch.Tensor, **given: object) -> WriteRequest:
    vocab = ground.model.vocab_size
    asked = {
        "live": torch.ones(FEATURES, dtype=torch.bool),
        "lens": None,
        "words": torch.zeros(0, dtype=torch.long),
        "features": FEATURES,
        "controls": matched_controls(torch.arange(vocab)),
        **given,
    }
    return WriteRequest(ground=ground, dictionary=dictionary, tokens=tokens, **asked)


def first_is(token: torch.Tensor) -> torch.Tensor:
    return torch.stack([token, (token + 1) % FEATURES, (token + 2) % FEATURES], 1)


def test_every_direction_has_the_same_kl_and_its_rise_is_that_of_the_patched_model(
    ground: Ground, dictionary: Dictionary
) -> None:
    watched = torch.arange(FEATURES)[:, None]
    kl = KL / 10  # a random model of this size comes no further
    steered = ground.at_equal_kl(dictionary.directions, watched, kl=kl)
    assert (steered.kl - kl).abs().max() < 0.1 * kl
    model, prefix = ground.model, ground.prefixes[1][None]
    for feature in (0, 17, 59):
        length = steered.strength[feature] * ground.mean_norm

        def add(stream: torch.Tensor, feature: int = feature, length: torch.Tensor = length) -> torch.Tensor:
            stream = stream.clone()
            stream[0, -1] += length * dictionary.directions[feature]
            return stream

        before = model.logits(prefix)[0, -1].softmax(-1)
        after = model.logits(prefix, {LAYER: add})[0, -1].softmax(-1)
        expected = (after - before)[feature].item()
        assert steered.rise[1, feature, 0].item() == pytest.approx(expected, abs=1e-5)


def test_a_token_that_a_feature_writes_rises_above_its_controls_and_a_dealt_one_does_not(
    ground: Ground, dictionary: Dictionary
) -> None:
    numbers = torch.arange(FEATURES)
    true = steered_writes(request(ground, dictionary, first_is(numbers)))
    above = (true.rises[:, 0] > true.control).float().mean()
    dealt = steered_writes(request(ground, dictionary, first_is(numbers.roll(7))))
    chance = (dealt.rises[:, 0] > dealt.control).float().mean()
    assert above > 0.5 and chance <= 3 / (CONTROLS + 1)


def test_only_the_drawn_features_are_steered_and_the_draw_follows_the_seed(
    ground: Ground, dictionary: Dictionary
) -> None:
    live = torch.arange(FEATURES) % 3 > 0
    tokens = first_is(torch.arange(FEATURES))
    some = steered_writes(request(ground, dictionary, tokens, live=live, features=9))
    drawn = ~some.control.isnan()
    assert drawn.sum() == 9 and not drawn[~live].any()
    assert torch.equal(some.strength.isnan(), ~drawn)
    again = steered_writes(request(ground, dictionary, tokens, live=live, features=9))
    assert torch.equal(again.control.isnan(), ~drawn)
    other = steered_writes(request(ground, dictionary, tokens, live=live, features=9, seed=1))
    assert not torch.equal(other.control.isnan(), ~drawn)
    assert {row["index"] for row in some.measured} == set(drawn.nonzero().squeeze(1).tolist())


def test_words_are_written_by_the_feature_that_a_lens_finds_for_them(
    ground: Ground, dictionary: Dictionary
) -> None:
    words, tokens = torch.arange(1, FEATURES, 3), first_is(torch.arange(FEATURES))
    found = steered_writes(request(ground, dictionary, tokens, words=words, features=0))
    assert found.shares["writes_over_features"] > 4 / (CONTROLS + 1)
    assert found.shares["writes"] <= found.shares["writes_over_features"]
    assert found.shares["writes_logit"] == found.shares["writes"]  # there is no other lens
    for word in words.tolist():
        rows = [row for row in found.measured if row["token_id"] == word]
        assert word in {row["index"] for row in rows if row["kind"] == "feature"}
        assert [row["index"] for row in rows if row["kind"] == "embedding"] == [word]
    assert "writes_rows" not in found.shares


def test_shares_of_write_verdicts_are_over_the_features_tested() -> None:
    verdict = np.array(["both", "steering", "steering", "ablation", "none", "untested", "dead"])
    assert write_shares(verdict) == {"write_steering": 3 / 5, "write_ablation": 2 / 5}
    assert write_shares(verdict[5:]) == {}


def test_nothing_to_steer_gives_nothing(ground: Ground, dictionary: Dictionary) -> None:
    found = steered_writes(request(ground, dictionary, first_is(torch.arange(FEATURES)), features=0))
    assert found.measured == [] and found.shares == {} and found.control.isnan().all()


def test_a_dictionary_without_live_features_writes_nothing(ground: Ground, dictionary: Dictionary) -> None:
    dead = {"live": torch.zeros(FEATURES, dtype=torch.bool), "words": torch.arange(5)}
    found = steered_writes(request(ground, dictionary, first_is(torch.arange(FEATURES)), **dead))
    assert found.measured == [] and found.shares == {} and found.rises.isnan().all()


def test_a_feature_is_no_control_of_itself(ground: Ground, dictionary: Dictionary) -> None:
    tokens, live = first_is(torch.arange(FEATURES)), torch.arange(FEATURES) < CONTROLS
    words = torch.arange(0, CONTROLS, 3)
    found = steered_writes(request(ground, dictionary, tokens, live=live, words=words, features=0))
    assert found.shares["writes_over_features"] > 0.5
    rows = [row for row in found.measured if row["kind"] == "feature" and row["index"] == row["token_id"]]
    assert rows and np.mean([row["above"] for row in rows]) > 0.5


def test_each_written_token_has_its_own_controls(ground: Ground, dictionary: Dictionary) -> None:
    tokens = first_is(torch.arange(FEATURES))
    found = steered_writes(request(ground, dictionary, tokens, features=5))
    [first, *_] = (~found.control.isnan()).nonzero().squeeze(1).tolist()
    rows = {row["token_id"]: row for row in found.measured if row["index"] == first}
    own = [rows[token]["control"] for token in tokens[first].tolist()]
    assert own[0] == pytest.approx(found.control[first].item()) and len(set(own)) == 3
    words = tokens[first][:1]
    again = steered_writes(request(ground, dictionary, tokens, features=5, words=words))
    kept = [row for row in again.measured if row["index"] == first and row["token_id"] == words.item()]
    assert [row["control"] for row in kept if row["kind"] == "feature"] == pytest.approx(own[:1])


def test_words_are_not_judged_on_one_prefix(model: LanguageModel, dictionary: Dictionary) -> None:
    one = Ground(model, LAYER, [np.arange(1, 12)], mean_norm=2.0)
    tokens, words = first_is(torch.arange(FEATURES)), torch.arange(5)
    found = steered_writes(request(one, dictionary, tokens, words=words, features=3))
    assert found.shares == {} and len(found.measured) == 9


def test_prefixes_are_beginnings_of_passages_spread_evenly() -> None:
    passages = {number: np.arange(number, number + 5 + number) for number in range(0, 40, 2)}
    chosen = neutral_prefixes(passages, n=3)
    assert [ids[0] for ids in chosen] == [12, 24, 38]
    assert all(len(ids) == PREFIX_LENGTH for ids in chosen)
    assert [len(ids) for ids in neutral_prefixes([np.arange(4), np.arange(1)], n=3)] == [4]
    assert neutral_prefixes([], n=3) == []
    short = [np.arange(PREFIX_LENGTH), *(np.arange(5 + at) for at in range(6))]
    assert sorted(len(ids) for ids in neutral_prefixes(short, n=3)) == [9, 10, PREFIX_LENGTH]


def test_content_words_are_letters_often_enough_and_not_among_the_commonest() -> None:
    raws = [b" the", b" house", b" houses", b" rare", b"!!!!!", b" cat", b"house", b" bridge", b" \xff\xfe1a"]
    occurrences = np.array([90, 20, 30, 1, 50, 40, 3, 15, 60])
    words = words_of(raws)
    drawn = content_words(raws, words, shown_tokens(words, occurrences), occurrences, n=9, least=10, common=1)
    assert [raws[token] for token in drawn.tolist()] == [b" houses", b" bridge"]
    one = content_words(raws, words, shown_tokens(words, occurrences), occurrences, n=1, least=10, common=1)
    assert len(one) == 1


def test_prefixes_of_different_lengths_are_read_as_they_are_alone(
    model: LanguageModel, dictionary: Dictionary
) -> None:
    draw = np.random.default_rng(1)
    prefixes = [np.concatenate([[model.bos], draw.integers(1, model.vocab_size, n)]) for n in (15, 4)]
    strength, directions = torch.full((FEATURES,), 0.5), dictionary.directions
    together = list(Ground(model, LAYER, prefixes, mean_norm=2.0).log_probabilities(directions, strength))
    for ids, found in zip(prefixes, together, strict=True):
        [alone] = Ground(model, LAYER, [ids], mean_norm=2.0).log_probabilities(directions, strength)
        assert torch.allclose(found, alone, atol=1e-4)
