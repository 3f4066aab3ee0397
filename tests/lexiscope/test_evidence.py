"""Name evidence equals a slow count, finds names that are true, and rejects names that are not."""

import math

import numpy as np
import pytest
import torch

from lexiscope.evidence import (
    FDR,
    KINDS,
    NEAR,
    AblationCounts,
    Evidence,
    EvidenceCounts,
    FlatText,
    NameHits,
    NameTables,
    ablation_p,
    benjamini_hochberg,
    families,
    lift_names,
    matched_controls,
    poisson_tail,
)
from lexiscope.measures import FEATURE
from lexiscope.sparse_code import SparseCode

VOCAB, FEATURES = 50, 30


def random_text(n: int = 400, *, seed: int = 0) -> list[np.ndarray]:
    draw = np.random.default_rng(seed)
    return list(draw.integers(0, VOCAB, (n // 40, 40)))


def test_a_feature_that_fired_on_no_passage_that_is_judged_has_no_evidence() -> None:
    names, none = torch.arange(2), torch.full((2, 1), -1)
    counts = EvidenceCounts.of(
        names,
        NameTables(none, torch.zeros(2, 1).long()),
        NameHits(2),
        np.array([0, 5]),  # of the judged half alone; in the other half both fired
        np.array([3, 7]),
    )
    for name, values in counts.result(torch.tensor([True, True])).measures().items():
        assert values.isnan().tolist() == [True, False], name
        if name in FEATURE:
            assert "never fired in the passages that names are judged on" in FEATURE[name].comment


def random_code(n: int, *, seed: int = 1) -> SparseCode:
    draw = torch.Generator().manual_seed(seed)
    indices = torch.stack([torch.randperm(FEATURES, generator=draw)[:4] for _ in range(n)])
    return SparseCode(torch.randn(n, 4, generator=draw).clamp_min(0), indices)


def setup(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, NameTables]:
    """Names of all features, families, and the tables of families and controls."""
    draw = torch.Generator().manual_seed(seed)
    names = torch.randint(0, VOCAB, (FEATURES,), generator=draw)
    kin = families(torch.randn(VOCAB, 8, generator=draw), [f"word{i}" for i in range(VOCAB)], nearest=3)
    controls = matched_controls(torch.randint(1, 100, (VOCAB,), generator=draw).float())
    return names, kin, NameTables(kin, controls)


def test_counts_equal_a_loop_over_firings() -> None:
    names, kin, tables = setup()
    passages = random_text()
    text = FlatText(passages)
    code = random_code(len(text))
    counts = EvidenceCounts(names, tables)
    counts.add(code, text)
    slow = {kind: [0] * FEATURES for kind in (*KINDS, "firings")}
    controls = {kind: [0] * FEATURES for kind in KINDS}
    at = 0
    for tokens in passages:
        for position in range(1, len(tokens)):
            current, before = int(tokens[position]), tokens[max(0, position - NEAR) : position].tolist()
            following = int(tokens[position + 1]) if position + 1 < len(tokens) else -1
            for value, feature in zip(code.values[at].tolist(), code.indices[at].tolist(), strict=True):
                if value <= 0:
                    continue
                slow["firings"][feature] += 1
                name = names[feature].item()
                control = int(tables.controls[name, (feature + current) % tables.controls.shape[1]])
                for candidate, hits in ((name, slow), (control, controls)):
                    hits["reads_here"][feature] += current == candidate
                    hits["reads_family"][feature] += (
                        current == candidate or current in kin[candidate].tolist()
                    )
                    hits["reads_near"][feature] += current == candidate or candidate in before
                    hits["predicts"][feature] += following == candidate
            at += 1
    assert counts.firings.tolist() == slow["firings"]
    for row, kind in enumerate(KINDS):
        assert counts.hits[row].tolist() == slow[kind], kind
        assert counts.control_hits[row].tolist() == controls[kind], kind


@pytest.mark.parametrize("first", [0, 1])
def test_flat_text_has_what_is_around_each_position_and_nothing_of_other_passages(first: int) -> None:
    passages = [np.array(ids) for ids in ([3, 1, 4], [1], [5, 9])]
    text = FlatText(passages, first=first)
    expected = [
        (row, position, int(ids[position]), int(ids[position + 1]) if position + 1 < len(ids) else -1)
        for row, ids in enumerate(passages)
        for position in range(first, len(ids))
    ]
    assert [*zip(text.row, text.position, text.current, text.following, strict=True)] == expected


def test_any_split_of_the_text_counts_the_same() -> None:
    names, _, tables = setup()
    passages = random_text()
    whole = FlatText(passages)
    code = random_code(len(whole))
    once, parts = EvidenceCounts(names, tables), EvidenceCounts(names, tables)
    once.add(code, whole)
    for number in reversed(range(0, len(passages), 3)):
        rows = torch.from_numpy(np.flatnonzero((whole.row >= number) & (whole.row < number + 3)))
        part = SparseCode(code.values[rows], code.indices[rows])
        parts.add(part, FlatText(passages[number : number + 3]))
    assert torch.equal(once.hits, parts.hits)
    assert torch.equal(once.control_hits, parts.control_hits)
    assert torch.equal(once.firings, parts.firings)
    assert torch.equal(once.occurrences, parts.occurrences)


def planted(
    rule: str, *, seed: int = 0, features: int = 200, vocab: int = 500, n: int = 20_000
) -> tuple[Evidence, torch.Tensor]:
    """A dictionary whose features fire on a token (and, half the time, elsewhere), named by `rule`."""
    draw = torch.Generator().manual_seed(seed)
    text = FlatText(list(torch.randint(0, vocab, (n // 100, 100), generator=draw).numpy()), first=0)
    anywhere = torch.randint(0, features, (len(text),), generator=draw)
    on = torch.from_numpy(text.current if rule != "predicts" else text.following).long()
    on = torch.where((on >= 0) & (on < features), on, anywhere)
    code = SparseCode(torch.ones(len(on), 2), torch.stack([on, anywhere], 1))
    code.values[:, 1] = (code.indices[:, 0] != code.indices[:, 1]).float()
    names = torch.arange(features)
    if rule == "permuted":
        names = names[torch.randperm(features, generator=draw)]
    kin = families(torch.randn(vocab, 16, generator=draw), [f"w{i}" for i in range(vocab)])
    occurrences = np.bincount(text.current, minlength=vocab)
    counts = EvidenceCounts(names, NameTables(kin, matched_controls(torch.from_numpy(occurrences))))
    counts.add(code, text)
    live = counts.firings > 0
    return counts.result(live), live


def test_features_that_fire_on_their_name_read_it() -> None:
    found, live = planted("reads")
    assert found.supported.float().mean() > 0.95
    assert (found.q_reads <= FDR).sum() > 190 and not (found.q_predicts <= FDR).any()
    assert (found.recall[live] > 0.95).all()


def test_features_that_fire_before_their_name_predict_it() -> None:
    found, _live = planted("predicts")
    assert (found.q_predicts <= FDR).sum() > 190


def test_permuted_names_are_unsupported_at_the_false_discovery_rate() -> None:
    shares = [planted("permuted", seed=seed)[0].supported.float().mean().item() for seed in range(5)]
    assert sum(shares) / 5 <= FDR


def test_a_family_as_common_as_the_feature_makes_it_is_no_evidence() -> None:
    """Features that fire anywhere, named by a rare token whose family holds a very common one."""
    draw = torch.Generator().manual_seed(0)
    tokens = torch.randint(10, 400, (200, 100), generator=draw)
    tokens[torch.rand(tokens.shape, generator=draw) < 0.2] = 1
    text = FlatText(list(tokens.numpy()), first=0)
    kin = torch.cat([torch.arange(400)[:, None], torch.full((400, 1), -1)], 1).int()
    kin[399, 1] = 1
    names = torch.full((50,), 399)
    names[1:] = torch.arange(300, 349)
    controls = matched_controls(torch.bincount(tokens.flatten(), minlength=400).float())
    counts = EvidenceCounts(names, NameTables(kin, controls))
    code = SparseCode(torch.ones(len(text), 1), torch.randint(0, 50, (len(text), 1), generator=draw))
    counts.add(code, text)
    found = counts.result(torch.ones(50, dtype=torch.bool))
    assert found.share["reads_family"][0] > 0.15
    assert found.q_reads[0] > FDR and not found.supported[0]


def test_features_that_never_fire_leave_the_pooled_chance_of_the_others_as_it_is() -> None:
    """Features that fire on their names, and all but the first on the control of all of them."""
    tokens = np.random.default_rng(0).permutation(np.repeat(np.arange(VOCAB), 8)).reshape(10, 40)
    text, control = FlatText(list(tokens), first=0), VOCAB - 1
    tables = NameTables(torch.arange(VOCAB)[:, None], torch.full((VOCAB, 4), control))
    firing = {control: range(1, 10), 20: range(1), 21: range(1), **{name: [name] for name in range(10)}}
    values, indices = torch.zeros(len(text), 9), torch.zeros(len(text), 9, dtype=torch.long)
    for place, token in enumerate(text.current.tolist()):
        for column, feature in enumerate(firing.get(token, ())):
            values[place, column], indices[place, column] = 1, feature
    names, found = torch.arange(10), []
    for each in (names, names.repeat(100)):
        counts = EvidenceCounts(each, tables)
        counts.add(SparseCode(values, indices), text)
        found.append(counts.result(counts.firings > 0).q_reads[:10])
    assert torch.equal(*found) and found[0][0] > FDR


def slow_ablation_p(n: int, hits: int, pooled: float, rate: float, controls: list[float]) -> float:
    expected = n * max(pooled, rate)
    below = sum(math.exp(i * math.log(expected) - expected - math.lgamma(i + 1)) for i in range(hits))
    as_good = (sum(share >= hits / n for share in controls) + 1) / (len(controls) + 1)
    return max(1 - below if hits else 1.0, as_good)


def test_the_p_value_of_ablation_hits_equals_its_definition() -> None:
    draw = torch.Generator().manual_seed(0)
    contexts = torch.tensor([5, 5, 3, 0, 5, 4])
    hits = torch.tensor([5, 0, 1, 0, 2, 4])
    control_hits = (torch.rand(6, 4, generator=draw) < 0.3).long() * (contexts[:, None] > 0)
    rate = torch.tensor([0.01, 0.2, 0.3, 0.0, 0.05, 0.4])
    found = ablation_p(AblationCounts(contexts, hits, control_hits, rate), torch.full((6,), 9))
    pooled = control_hits.sum().item() / (4 * contexts.sum().item())
    shares = [(control_hits[row] / contexts[row]).tolist() for row in range(6) if contexts[row]]
    controls = [share for row in shares for share in row]
    assert found[3].isnan()
    for row in (0, 1, 2, 4, 5):
        expected = slow_ablation_p(int(contexts[row]), int(hits[row]), pooled, rate[row].item(), controls)
        assert found[row].item() == pytest.approx(expected, abs=1e-6)


def test_the_ablation_test_makes_a_name_predicted_and_costs_the_next_token_test_a_factor_of_two() -> None:
    names, _, tables = setup()
    text = FlatText(random_text())
    counts = EvidenceCounts(names, tables)
    counts.add(random_code(len(text)), text)
    live = counts.firings > 0
    plain, p = counts.result(live), torch.full((FEATURES,), float("nan"), dtype=torch.float64)
    assert torch.equal(counts.result(live, p).q_predicts, plain.q_predicts)  # no feature was tested
    p[live] = 1.0
    assert (counts.result(live, p).q_predicts >= plain.q_predicts).all()
    some = int(live.nonzero()[4])
    p[some] = 1e-6
    found = counts.result(live, p)
    assert found.q_predicts[some] <= FDR and found.supported[some]
    assert plain.q_predicts[some] > FDR and not plain.supported[some]


def test_controls_are_other_tokens_of_like_frequency() -> None:
    counts = torch.arange(1000, 0, -1).float()
    controls = matched_controls(counts)
    assert (controls != torch.arange(1000)[:, None]).all()
    assert ((controls - torch.arange(1000)[:, None]).abs() <= 52).all()


def test_families_hold_case_space_and_inflection_variants() -> None:
    folded = ["cat", "cat", "cats", "dog", "walk", "walked", "walking"]
    kin = families(torch.eye(7), folded, nearest=0)
    assert set(kin[0].tolist()) >= {0, 1, 2}
    assert {4, 5, 6} <= set(kin[4].tolist())
    assert 3 not in kin[0].tolist()


def test_families_hold_the_twenty_tokens_nearest_by_cosine_of_the_centred_embedding() -> None:
    embedding = torch.randn(80, 12) + 2  # what all rows have in common says nothing
    centre = [sum(column) / 80 for column in embedding.double().T.tolist()]
    rows = [[value - middle for value, middle in zip(row, centre)] for row in embedding.double().tolist()]

    def cosine(a: list[float], b: list[float]) -> float:
        return sum(x * y for x, y in zip(a, b)) / math.hypot(*a) / math.hypot(*b)

    kin = families(embedding, [f"word{token}" for token in range(80)])
    for token in range(80):
        others = sorted(set(range(80)) - {token}, key=lambda other: -cosine(rows[token], rows[other]))
        family = [member for member in kin[token].tolist() if member >= 0]
        assert family[0] == token and set(family) == {token, *others[:20]}


@pytest.mark.parametrize(("hits", "expected"), [(0, 3.0), (1, 0.01), (5, 2.5), (40, 20.0)])
def test_the_poisson_tail_equals_its_sum(hits: int, expected: float) -> None:
    below = sum(math.exp(i * math.log(expected) - expected - math.lgamma(i + 1)) for i in range(hits))
    tail = poisson_tail(torch.tensor([float(hits)]).double(), torch.tensor([expected]).double())
    assert tail.item() == pytest.approx(1 - below, abs=1e-4)


def test_benjamini_hochberg_equals_its_definition() -> None:
    p = torch.tensor([0.01, 0.04, 0.03, 0.005, 0.9, 0.0], dtype=torch.float64)
    tested = torch.tensor([True, True, True, True, True, False])
    found = benjamini_hochberg(p, tested)
    some = sorted(p[:5].tolist())
    expected = [
        min(min(some[j] * 5 / (j + 1) for j in range(some.index(value), 5)), 1) for value in p[:5].tolist()
    ]
    assert found[:5].tolist() == pytest.approx(expected)
    assert found[5] == 1


def slow_lift(features: list[int], tokens: list[int], text: list[int], d_sae: int) -> list[int]:
    best = []
    for feature in range(d_sae):
        on = [t for f, t in zip(features, tokens, strict=True) if f == feature]
        gain = {
            t: on.count(t) / len(on) * math.log((on.count(t) / len(on)) / (text.count(t) / len(text)))
            for t in set(on)
        }
        best.append(min(gain, key=lambda t: (-gain[t], t)) if gain else -1)
    return best


@pytest.mark.parametrize("seed", range(5))
def test_the_name_of_highest_lift_equals_a_loop_over_firings(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    text = torch.randint(0, 12, (300,), generator=draw).square() // 11
    at = torch.randint(0, 300, (200,), generator=draw)
    features = torch.randint(0, 9, (200,), generator=draw)
    found = lift_names(features, text[at], torch.bincount(text, minlength=20), 10)
    assert found.tolist() == slow_lift(features.tolist(), text[at].tolist(), text.tolist(), 10)
    assert found[9] == -1


def test_a_token_met_once_is_no_name_beside_one_that_matters() -> None:
    text = torch.tensor([0] * 90 + [1] * 9 + [2])
    features = torch.zeros(10, dtype=torch.long)
    on = torch.tensor([1] * 9 + [2])
    assert lift_names(features, on, torch.bincount(text), 1).tolist() == [1]
