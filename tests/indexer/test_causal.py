"""The causal pass equals patching and running the model for every firing; names that are no effect of their
feature are at chance.
"""

import numpy as np
import pytest
import torch

from indexer.causal.ablation import AblationRequest, ablate, spread_over_activations
from indexer.causal.effects import CausalEffects, CausalRequest, causal_effects
from indexer.causal.scores import PROMPT, STRENGTH, input_scores
from indexer.counts.firings import TextFirings
from lexiscope.dictionary import Dictionary
from lexiscope.evidence import FDR, AblationCounts, ablation_p, benjamini_hochberg, matched_controls
from lexiscope.language_model import LanguageModel
from lexiscope.selection import TopK

FEATURES, PASSAGES, LENGTH, LAYER = 60, 12, 24, 0


@pytest.fixture(scope="module")
def dictionary(model: LanguageModel) -> Dictionary:
    draw = torch.Generator().manual_seed(0)
    W_dec = torch.nn.functional.normalize(torch.randn(FEATURES, model.d_model, generator=draw), dim=-1)
    return Dictionary(W_dec.T.contiguous(), torch.zeros(FEATURES), W_dec, torch.zeros(model.d_model), TopK(4))


@pytest.fixture(scope="module")
def passages(model: LanguageModel) -> list[np.ndarray]:
    draw = np.random.default_rng(0)
    return [
        np.concatenate([[model.bos], draw.integers(1, model.vocab_size, LENGTH - 1)]) for _ in range(PASSAGES)
    ]


@pytest.fixture(scope="module")
def found(model: LanguageModel, dictionary: Dictionary, passages: list[np.ndarray]) -> TextFirings:
    """All firings of the dictionary in the passages, by feature."""
    rows = []
    for number, passage in enumerate(passages):
        code = dictionary.encode(model.read(torch.from_numpy(passage)[None], [LAYER])[LAYER][0])
        for position in range(1, LENGTH):
            for value, feature in zip(
                code.values[position].tolist(), code.indices[position].tolist(), strict=True
            ):
                if value > 0:
                    rows.append((feature, number, position, value))
    feature, passage, position, value = (np.array(column) for column in zip(*sorted(rows), strict=True))
    return TextFirings(feature, passage, position, value.astype(np.float32))


@pytest.fixture(scope="module")
def occurrences(model: LanguageModel, passages: list[np.ndarray]) -> torch.Tensor:
    return torch.bincount(torch.from_numpy(np.concatenate(passages)), minlength=model.vocab_size)


def best_of_each_passage(found: TextFirings) -> TextFirings:
    order = np.lexsort((-found.value, found.passage, found.feature))
    pair = found.feature[order] * PASSAGES + found.passage[order]
    return TextFirings(*(column[order[np.unique(pair, return_index=True)[1]]] for column in found))


def effects(
    model: LanguageModel,
    dictionary: Dictionary,
    passages: list[np.ndarray],
    found: TextFirings,
    **given: object,
) -> CausalEffects:
    counts = torch.bincount(torch.from_numpy(np.concatenate(passages)), minlength=model.vocab_size)
    given = {
        "names": torch.arange(1, FEATURES + 1),
        "live": torch.ones(FEATURES, dtype=torch.bool),
        "writes": torch.arange(3 * FEATURES).view(FEATURES, 3) % model.vocab_size,
        "steered": 0,
        "fast": False,
        **given,
    }
    request = CausalRequest(
        model=model,
        passages=passages,
        layer=LAYER,
        dictionary=dictionary,
        controls=matched_controls(counts),
        sample=found,
        top=best_of_each_passage(found),
        occurrences=counts,
        mean_norm=2.0,
        **given,
    )
    [ranks] = ablate(model, passages, [request.ablation()], fast=request.fast)
    return causal_effects(request, ranks)


def falls(
    model: LanguageModel,
    dictionary: Dictionary,
    passages: list[np.ndarray],
    firing: tuple[int, int, int, float],
) -> torch.Tensor:
    """[vocab] how far each logit falls when one firing is taken away: the model run twice."""
    feature, passage, position, value = firing
    tokens = torch.from_numpy(passages[passage])[None]

    def ablate(stream: torch.Tensor) -> torch.Tensor:
        stream = stream.clone()
        stream[0, position] -= value * dictionary.W_dec[feature]
        return stream

    return (model.logits(tokens) - model.logits(tokens, {LAYER: ablate}))[0, position]


@pytest.fixture(scope="module")
def lowered(
    model: LanguageModel, dictionary: Dictionary, passages: list[np.ndarray], found: TextFirings
) -> dict[int, list[torch.Tensor]]:
    """{feature: [vocab] how far each logit falls, in each of three contexts}"""
    chosen = spread_over_activations(found, torch.ones(FEATURES, dtype=torch.bool), 3)
    by_feature: dict[int, list[torch.Tensor]] = {}
    for firing in zip(*(column.tolist() for column in chosen), strict=True):
        by_feature.setdefault(firing[0], []).append(falls(model, dictionary, passages, firing))
    return by_feature


def test_ranks_and_shares_equal_running_the_model_twice_for_every_firing(
    model: LanguageModel,
    dictionary: Dictionary,
    passages: list[np.ndarray],
    found: TextFirings,
    occurrences: torch.Tensor,
    lowered: dict[int, list[torch.Tensor]],
) -> None:
    causal = effects(model, dictionary, passages, found, contexts=3)
    controls = matched_controls(occurrences)
    for feature, each in lowered.items():
        name = feature + 1
        ranks = [int((fall > fall[name]).sum()) for fall in each]
        assert causal.ablation_contexts[feature] == len(each)
        assert abs(causal.ablation_rank[feature] - np.median(ranks)) <= 1  # the two ways differ by rounding
        assert causal.ablation_top1[feature] == pytest.approx(np.mean([rank < 1 for rank in ranks]))
        assert causal.ablation_top5[feature] == pytest.approx(np.mean([rank < 5 for rank in ranks]))
        drawn = [int((fall > fall[c]).sum()) for fall in each for c in controls[name].tolist()]
        assert causal.ablation_top5_null[feature] == pytest.approx(np.mean([rank < 5 for rank in drawn]))
        assert causal.ablation_top1_null[feature] == pytest.approx(np.mean([rank < 1 for rank in drawn]))


def slow_counts(
    lowered: dict[int, list[torch.Tensor]], tokens: torch.Tensor, controls: torch.Tensor
) -> AblationCounts:
    """Of any of each feature's tokens [d_sae, w] and of any of their controls, context by context."""
    most = {
        feature: [set(fall.topk(5).indices.tolist()) for fall in each] for feature, each in lowered.items()
    }
    n = sum(map(len, most.values()))
    contexts, hits, rate = torch.zeros(3, len(tokens))
    control_hits = torch.zeros(len(tokens), controls.shape[1])
    for feature, each in most.items():
        own = set(tokens[feature].tolist())
        contexts[feature], hits[feature] = len(each), sum(bool(own & five) for five in each)
        for draw, drawn in enumerate(controls[tokens[feature]].T.tolist()):
            control_hits[feature, draw] = sum(bool(set(drawn) & five) for five in each)
        others = [five for other, theirs in most.items() if other != feature for five in theirs]
        met = sum(token in five for five in others for token in tokens[feature].tolist())
        rate[feature] = min(1, met / (n - len(each)))
    return AblationCounts(contexts.long(), hits.long(), control_hits.long(), rate)


def test_the_tests_of_a_name_and_of_a_write_list_equal_a_count_over_contexts(
    model: LanguageModel,
    dictionary: Dictionary,
    passages: list[np.ndarray],
    found: TextFirings,
    occurrences: torch.Tensor,
    lowered: dict[int, list[torch.Tensor]],
) -> None:
    """Of every third feature, name and list hold what its ablation lowers."""
    names = torch.arange(1, FEATURES + 1)
    writes = torch.arange(3 * FEATURES).view(FEATURES, 3) % model.vocab_size
    for feature in list(lowered)[::3]:
        names[feature] = writes[feature, 1] = lowered[feature][0].argmax()
    causal = effects(model, dictionary, passages, found, contexts=3, names=names, writes=writes)
    controls = matched_controls(occurrences)
    for tokens, q, share, chance in (
        (names[:, None], causal.q_ablation, causal.ablation_top5, causal.ablation_top5_null),
        (writes, causal.q_write, causal.write_top5, causal.write_top5_null),
    ):
        counts = slow_counts(lowered, tokens, controls)
        known = counts.contexts > 0
        p = ablation_p(counts, occurrences[tokens].amax(1))
        expected = benjamini_hochberg(p.nan_to_num(1), known)
        assert torch.equal(q.isnan(), ~known)
        assert q[known].tolist() == pytest.approx(expected[known].tolist(), rel=1e-4)
        assert share[known].tolist() == pytest.approx((counts.hits / counts.contexts)[known].tolist())
        by_chance = counts.control_hits.float().mean(1) / counts.contexts
        assert chance[known].tolist() == pytest.approx(by_chance[known].tolist())
        assert len(expected[known].unique()) > 3 and by_chance[known].any()


def test_a_feature_named_by_what_its_ablation_lowers_most_is_found_and_other_names_are_at_chance(
    model: LanguageModel, dictionary: Dictionary, passages: list[np.ndarray], found: TextFirings
) -> None:
    names = torch.zeros(FEATURES, dtype=torch.long)
    for firing in zip(
        *(
            column.tolist()
            for column in spread_over_activations(found, torch.ones(FEATURES, dtype=torch.bool), 1)
        ),
        strict=True,
    ):
        names[firing[0]] = falls(model, dictionary, passages, firing).argmax()
    true = effects(model, dictionary, passages, found, names=names, contexts=5)
    known = true.ablation_contexts > 0
    assert true.ablation_top5[known].mean() > 0.5
    assert true.ablation_top5_null[known].mean() < 0.1
    assert (true.q_ablation[known] <= FDR).float().mean() > 0.3
    turned = effects(model, dictionary, passages, found, names=names.roll(7), contexts=5)
    assert (turned.q_ablation[known] <= FDR).float().mean() <= FDR


def test_dictionaries_of_several_layers_are_ablated_in_one_reading_as_each_by_itself(
    model: LanguageModel, dictionary: Dictionary, passages: list[np.ndarray], found: TextFirings
) -> None:
    chosen = spread_over_activations(found, torch.ones(FEATURES, dtype=torch.bool), 2)
    some = TextFirings(*(column[::3] for column in chosen))
    tokens = torch.arange(2 * FEATURES).view(FEATURES, 2) % model.vocab_size
    requests = [
        AblationRequest(LAYER, dictionary, tokens, chosen),
        AblationRequest(LAYER + 1, dictionary, tokens, some, ranked=1),
    ]
    together = ablate(model, passages, requests, fast=False)
    for request, ranks in zip(requests, together, strict=True):
        [alone] = ablate(model, passages, [request], fast=False)
        assert (ranks.ranks - alone.ranks).abs().max() <= 1 and torch.equal(ranks.feature, alone.feature)
        assert torch.equal(ranks.falling, alone.falling)


def test_in_bf16_the_same_tokens_fall_most(
    model: LanguageModel,
    dictionary: Dictionary,
    passages: list[np.ndarray],
    found: TextFirings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chosen = spread_over_activations(found, torch.ones(FEATURES, dtype=torch.bool), 3)
    tokens = torch.arange(8 * FEATURES).view(FEATURES, 8) % model.vocab_size
    request = AblationRequest(LAYER, dictionary, tokens, chosen)
    [exactly] = ablate(model, passages, [request], fast=False)
    monkeypatch.setattr("lexiscope.language_model.model.fast_dtype", lambda device: torch.bfloat16)
    [roughly] = ablate(model, passages, [request])
    assert not torch.equal(roughly.ranks, exactly.ranks)
    assert (roughly.ranks - exactly.ranks).abs().float().median() < 0.01 * model.vocab_size
    assert (torch.minimum(roughly.falling, exactly.falling)).sum() > 0.9 * exactly.falling.sum()


def test_firings_are_taken_from_all_levels_of_activation() -> None:
    value = np.random.default_rng(0).permutation(np.arange(1, 26)).astype(np.float32)
    sample = TextFirings(np.zeros(25, int), np.arange(25), np.ones(25, int), value)
    chosen = spread_over_activations(sample, torch.ones(1, dtype=torch.bool), 5)
    assert ((chosen.value - 1) // 5).tolist() == [0, 1, 2, 3, 4]
    assert len(spread_over_activations(sample, torch.ones(1, dtype=torch.bool), 40).value) == 25


def test_features_share_passages_and_a_feature_takes_different_ones() -> None:
    draw, features = np.random.default_rng(0), 300
    feature = np.repeat(np.arange(features), 25)
    place = draw.integers(0, 400, len(feature)), draw.integers(1, 99, len(feature))
    sample = TextFirings(feature, *place, draw.random(len(feature)).astype(np.float32))
    chosen = spread_over_activations(sample, torch.ones(features, dtype=torch.bool), 2)
    assert (np.bincount(chosen.feature) == 2).all()
    assert len(np.unique(chosen.passage)) < 150  # any two of 25 would lie in 310 of the 400
    twice = TextFirings(
        np.zeros(4, int), np.array([7, 9, 7, 9]), np.arange(4), np.arange(4, dtype=np.float32)
    )
    for order in ([0, 1, 2, 3], [1, 0, 3, 2]):
        either = TextFirings(*(column[order] for column in twice))
        two = spread_over_activations(either, torch.ones(1, dtype=torch.bool), 2)
        assert sorted(two.passage.tolist()) == [7, 9]


def test_the_input_score_counts_names_among_the_strongest_tokens_of_the_best_contexts(
    model: LanguageModel,
    dictionary: Dictionary,
    passages: list[np.ndarray],
    found: TextFirings,
    occurrences: torch.Tensor,
) -> None:
    names = torch.tensor([int(passages[0][feature % LENGTH]) for feature in range(FEATURES)])
    causal = effects(model, dictionary, passages, found, names=names, contexts=1)
    controls = matched_controls(occurrences).tolist()
    for feature in range(FEATURES):
        strongest = []
        for passage in range(PASSAGES):
            here = (found.feature == feature) & (found.passage == passage)
            if here.any():
                strongest.append(int(passages[passage][found.position[here][found.value[here].argmax()]]))
        if strongest:
            assert causal.input_score[feature] == pytest.approx(
                np.mean([token == names[feature] for token in strongest])
            )
            drawn = controls[int(names[feature])]
            by_chance = np.mean([token == control for token in strongest for control in drawn])
            assert causal.input_score_null[feature] == pytest.approx(by_chance)
        else:
            assert causal.input_score[feature].isnan()


def test_the_strongest_contexts_of_a_signed_feature_may_be_negative() -> None:
    passages = [np.array([0, 7 if at < 20 else 8]) for at in range(24)]
    value = np.where(np.arange(24) < 20, -10.0, 0.1).astype(np.float32)
    top = TextFirings(np.zeros(24, int), np.arange(24), np.ones(24, int), value)
    tested = torch.ones(1, dtype=torch.bool)
    assert input_scores(top, passages, torch.tensor([7]), torch.zeros(9, 2).long(), tested).name.item() == 1


def test_the_output_score_is_the_rise_of_the_names_rank_weighted_probability(
    model: LanguageModel,
    dictionary: Dictionary,
    passages: list[np.ndarray],
    found: TextFirings,
    occurrences: torch.Tensor,
) -> None:
    causal = effects(model, dictionary, passages, found, contexts=1)
    controls = matched_controls(occurrences).tolist()
    tokens = torch.tensor([[model.bos, *model.tokenise(PROMPT)]])

    def score(logits: torch.Tensor, token: int) -> float:
        rank = logits.argsort(descending=True).tolist().index(token)
        return (1 - rank / model.vocab_size) * logits.softmax(-1)[token].item()

    before = model.logits(tokens)[0, -1]
    for feature in range(0, FEATURES, 9):

        def add(stream: torch.Tensor, feature: int = feature) -> torch.Tensor:
            stream = stream.clone()
            stream[0, -1] += STRENGTH * 2.0 * dictionary.W_dec[feature]
            return stream

        after = model.logits(tokens, {LAYER: add})[0, -1]
        expected = score(after, feature + 1) - score(before, feature + 1)
        assert causal.output_score[feature] == pytest.approx(expected, abs=1e-5)
        drawn = [score(after, control) - score(before, control) for control in controls[feature + 1]]
        assert causal.output_score_null[feature] == pytest.approx(np.mean(drawn), abs=1e-5)


def test_what_is_not_tested_says_so(
    model: LanguageModel, dictionary: Dictionary, passages: list[np.ndarray], found: TextFirings
) -> None:
    live = torch.ones(FEATURES, dtype=torch.bool)
    live[:10] = False
    causal = effects(model, dictionary, passages, found, live=live, limit=20, contexts=2)
    tested = causal.ablation_contexts > 0
    assert tested.sum() <= 20 and not tested[:10].any()
    assert (causal.ablation_contexts[~tested] == -1).all()
    for column in (causal.ablation_rank, causal.ablation_top5, causal.q_ablation, causal.p_ablation):
        assert torch.equal(column.isnan(), ~tested)
    assert causal.parameters["limit"] == 20 and causal.parameters["features"] == tested.sum()
    again = effects(model, dictionary, passages, found, live=live, limit=20, contexts=2)
    assert torch.equal(again.ablation_contexts, causal.ablation_contexts)
