"""Evaluation: every figure equals a slow computation, passage by passage, and says nothing about what it did
not see.
"""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from lexiscope import evidence, metrics
from lexiscope.checkpoint import AnchorFit
from lexiscope.dictionary import Dictionary
from lexiscope.errors import CheckpointError, LexiscopeError, ModelError, TextError
from lexiscope.evidence import FlatText, NameTables, matched_controls
from lexiscope.language_model import LanguageModel
from lexiscope.selection import TopK
from lexiscope.sparse_code import SparseCode
from lexiscope.text import passages as passages_of
from lexiscope.vocabulary_tables import family_table, word_table
from trainer import evaluation
from trainer.evaluation import Candidate, Measured, check_candidates, measure

LAYER = 0


def candidate(
    model: LanguageModel, *, d_sae: int = 60, seed: int = 0, dense: bool = False, layer: int = LAYER
) -> Candidate:
    """A dictionary that roughly reconstructs the residual stream: four rows near each of some rows of W_E,
    which are anchors, then random rows with and without an anchor nearby; the last five never fire.
    """
    draw = torch.Generator().manual_seed(seed)
    d = model.d_model
    rows = F.normalize(torch.randn(d_sae, d, generator=draw), dim=-1)
    anchors = torch.randn(model.vocab_size, d, generator=draw)
    assigned = torch.randint(-1, model.vocab_size, (d_sae,), generator=draw)
    embedding = F.normalize(model.embedding - model.embedding.mean(0), dim=-1)
    common = model.tokenise(" the cat sat on mat dog rain old")
    for feature in range(32):
        token = common[feature // 4]
        anchors[token] = embedding[token]
        rows[feature] = F.normalize(
            embedding[token] + (0.2, 0.4, 0.6, 0.8)[feature % 4] * rows[feature], dim=0
        )
        if feature % 3:
            assigned[feature] = token
    anchors[32:45] = rows[32:45] + 0.3 * torch.randn(13, d, generator=draw) / d**0.5
    bias = torch.zeros(d_sae)
    bias[-5:] = -1e3
    path = (
        {
            "dense_in": torch.randn(d, 2, generator=draw) * 0.1,
            "dense_out": torch.randn(2, d, generator=draw) * 0.1,
        }
        if dense
        else {}
    )
    dictionary = Dictionary(rows.T * 0.3, bias, rows.clone(), torch.zeros(d), TopK(5), **path)
    counts = torch.randint(0, 50, (model.vocab_size,), generator=draw).float()
    return Candidate(
        layer, dictionary, AnchorFit(anchors, counts, torch.randn(d, generator=draw), assigned), seed
    )


@pytest.fixture(scope="module")
def held_out(model: LanguageModel, text_file: Path) -> list[np.ndarray]:
    """Passages of differing length."""
    found = list(passages_of(model, [str(text_file)], length=48, tokens=900))
    return [passage[: len(passage) - i % 7] for i, passage in enumerate(found)]


@pytest.fixture(scope="module")
def measured(model: LanguageModel, held_out: list[np.ndarray]) -> Measured:
    return measure(model, [candidate(model, dense=True)], held_out)[0]


class Slow:
    """The sums, one passage and one position at a time."""

    def __init__(self, model: LanguageModel, c: Candidate, held_out: list[np.ndarray]) -> None:
        self.x, self.x_hat, self.fired, self.tokens, self.following, self.places = ([] for _ in range(6))
        self.ce, self.ce_sae, self.ce_zero, self.ce_mean, self.kl = ([] for _ in range(5))
        self.lens, self.by_passage = [], []
        for number, passage in enumerate(held_out):
            tokens = torch.from_numpy(passage).long()[None]
            residual = model.read(tokens, [c.layer])[c.layer]
            x = residual[0, 1:]
            patched = {"sae": residual.clone(), "zero": residual.clone(), "mean": residual.clone()}
            patched["sae"][0, 1:] = c.dictionary.reconstruct(x)
            patched["zero"][0, 1:] = 0
            patched["mean"][0, 1:] = c.fit.mean
            default = model.logits(tokens)[0].log_softmax(-1)
            after = {
                kind: model.logits(tokens, {c.layer: lambda _, r=r: r})[0].log_softmax(-1)
                for kind, r in patched.items()
            }
            difference = 0.0
            for position in range(1, len(passage) - 1):
                following = passage[position + 1]
                self.ce.append(-default[position, following].item())
                self.ce_sae.append(-after["sae"][position, following].item())
                self.ce_zero.append(-after["zero"][position, following].item())
                self.ce_mean.append(-after["mean"][position, following].item())
                difference += self.ce_sae[-1] - self.ce[-1]
                self.kl.append(
                    (default[position].exp() * (default[position] - after["sae"][position])).sum().item()
                )
            self.by_passage.append((difference, len(passage) - 2))
            for position in range(1, len(passage)):
                self.x.append(residual[0, position])
                self.x_hat.append(patched["sae"][0, position])
                code = c.dictionary.encode(residual[0, position][None])
                self.fired.append(
                    {
                        i: v
                        for v, i in zip(code.values[0].tolist(), code.indices[0].tolist(), strict=True)
                        if v > 0
                    }
                )
                self.places.append((number, position))
                self.tokens.append(int(passage[position]))
                self.following.append(int(passage[position + 1]) if position + 1 < len(passage) else -1)
                tops = [
                    model.unembed_residual(r[0, position]).argmax().item() for r in (residual, patched["sae"])
                ]
                self.lens.append(tops[0] == tops[1])


@pytest.fixture(scope="module")
def slow(model: LanguageModel, held_out: list[np.ndarray]) -> Slow:
    return Slow(model, candidate(model, dense=True), held_out)


def mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)


def test_reconstruction_figures_equal_a_loop_over_positions(measured: Measured, slow: Slow) -> None:
    m = measured.metrics
    x, x_hat = torch.stack(slow.x).double(), torch.stack(slow.x_hat).double()
    centre = [mean(column.tolist()) for column in x.T]
    error = sum(
        (a - b) ** 2
        for row, other in zip(x.tolist(), x_hat.tolist(), strict=True)
        for a, b in zip(row, other, strict=True)
    )
    variance = sum((a - b) ** 2 for row in x.tolist() for a, b in zip(row, centre, strict=True))
    assert m["tokens"] == m["ce_tokens"] == len(slow.x)
    assert m["nmse"] == pytest.approx(error / variance, rel=1e-4)
    assert m["fve"] == pytest.approx(1 - error / variance, abs=1e-4)
    assert m["l0"] == pytest.approx(mean([len(fired) for fired in slow.fired]))


def test_what_the_patched_model_says_equals_a_loop_over_passages(measured: Measured, slow: Slow) -> None:
    m = measured.metrics
    ce, ce_sae = mean(slow.ce), mean(slow.ce_sae)
    assert m["ce"] == pytest.approx(ce, abs=1e-4)
    assert m["ce_sae"] == pytest.approx(ce_sae, abs=1e-4)
    assert m["delta_ce"] == pytest.approx(ce_sae - ce, abs=1e-4)
    assert m["kl"] == pytest.approx(mean(slow.kl), abs=1e-4)
    assert m["logit_lens_agreement"] == pytest.approx(mean([float(same) for same in slow.lens]), abs=2e-3)
    for kind, values in (("zero", slow.ce_zero), ("mean", slow.ce_mean)):
        assert m[f"ce_recovered_{kind}"] == pytest.approx(
            (mean(values) - ce_sae) / (mean(values) - ce), abs=1e-2
        ), kind
    assert len(m["passage_delta_ce"]) == len(slow.by_passage)
    for (difference, count), (expected, tokens) in zip(m["passage_delta_ce"], slow.by_passage, strict=True):
        assert difference == pytest.approx(expected, abs=1e-3) and count == tokens
    assert m["delta_ce_ci"][0] <= m["delta_ce"] <= m["delta_ce_ci"][1]


def test_features_are_live_named_and_aligned_as_in_a_loop(
    model: LanguageModel, measured: Measured, slow: Slow
) -> None:
    c, m = candidate(model, dense=True), measured.metrics
    firings = [sum(feature in fired for fired in slow.fired) for feature in range(60)]
    live = [feature for feature in range(60) if firings[feature] >= 1]
    cosine = [
        [F.cosine_similarity(row, anchor, dim=0).item() for anchor in c.fit.anchors]
        for row in c.dictionary.W_dec
    ]
    names = [row.index(max(row)) for row in cosine]
    best = [max(row) for row in cosine]
    assert measured.features["firings"].tolist() == firings
    assert measured.features["names"].tolist() == names
    assert m["n_live"] == len(live) and m["dead_share"] == pytest.approx(1 - len(live) / 60)
    assert m["aligned_all"] == pytest.approx(mean([b >= 0.8 for b in best]))
    assert m["aligned_live"] == pytest.approx(mean([best[f] >= 0.8 for f in live]))
    assert m["aligned_firing"] == pytest.approx(
        sum(firings[f] for f in live if best[f] >= 0.8) / sum(firings)
    )
    occurring = set(slow.tokens)
    assert m["coverage"] == pytest.approx(
        len({names[f] for f in live if best[f] >= 0.8} & occurring) / len(occurring)
    )
    here = sum(slow.tokens[at] == names[f] for at, fired in enumerate(slow.fired) for f in fired)
    assert m["reads_precision"] == pytest.approx(here / sum(firings))
    counts = c.fit.counts.tolist()
    seen = [count / sum(counts) >= 1e-5 for count in counts]
    assert m["vocab_seen"] == pytest.approx(mean(seen))
    own = [a if a >= 0 else n for a, n in zip(c.fit.assigned.tolist(), names, strict=True)]
    of_seen = [f for f in range(60) if seen[own[f]]]
    assert m["dead_share_seen"] == pytest.approx(mean([f not in live for f in of_seen]))
    held = [f for f in live if c.fit.assigned[f] >= 0]
    assert m["name_is_assigned"] == pytest.approx(mean([names[f] == c.fit.assigned[f].item() for f in held]))


def test_alignment_by_energy_and_to_the_embedding_equals_a_loop(
    model: LanguageModel, measured: Measured, slow: Slow
) -> None:
    c, m = candidate(model, dense=True), measured.metrics
    rows, live = c.dictionary.W_dec, measured.features["firings"].tolist()
    energy = [
        sum(fired.get(feature, 0.0) ** 2 for fired in slow.fired) * float(rows[feature] @ rows[feature])
        for feature in range(60)
    ]
    centred = model.embedding - model.embedding.mean(0)
    to_anchor, to_embedding = (
        [max(F.cosine_similarity(row, vector, dim=0).item() for vector in vectors) for row in rows]
        for vectors in (c.fit.anchors, centred)
    )
    aligned = [each for each, cosine in zip(energy, to_anchor) if cosine >= 0.8]
    assert m["aligned_energy"] == pytest.approx(sum(aligned) / sum(energy), rel=1e-5)
    assert m["aligned_energy"] != pytest.approx(m["aligned_firing"], rel=1e-2)
    assert m["aligned_live_embedding"] == pytest.approx(
        mean([cosine >= 0.8 for cosine, firings in zip(to_embedding, live) if firings])
    )
    assert 0 < m["aligned_live_embedding"] < 1


class SlowNames:
    """The evidence for names [d_sae], one firing at a time: hits of each name, and of a control in its
    place.
    """

    KINDS = ("reads", "family", "predicts")

    def __init__(self, model: LanguageModel, c: Candidate, slow: Slow, names: list[int]) -> None:
        self.names, self.tokens, kin = names, slow.tokens, family_table(model).tolist()
        self.families = [{member for member in family if member >= 0} for family in kin]
        self.firings = [0] * len(names)
        self.hits, self.null = ({kind: [0] * len(names) for kind in self.KINDS} for _ in range(2))
        controls = matched_controls(c.fit.counts).tolist()
        for token, following, fired in zip(slow.tokens, slow.following, slow.fired):
            for feature in fired:
                drawn = controls[names[feature]]
                control = drawn[(feature + token) % len(drawn)]
                self.firings[feature] += 1
                for name, found in ((names[feature], self.hits), (control, self.null)):
                    found["reads"][feature] += token == name
                    found["family"][feature] += token in self.families[name]
                    found["predicts"][feature] += following == name

    def p(self, kind: str, feature: int) -> float:
        """Of the hits: a Poisson tail, with the largest of three estimates of chance."""
        occurs = [self.tokens.count(name) for name in self.names]
        alike = [
            f for f, n in enumerate(occurs) if int(math.log2(n + 1)) == int(math.log2(occurs[feature] + 1))
        ]
        pooled = sum(self.null[kind][f] for f in alike) / max(1, sum(self.firings[f] for f in alike))
        name = self.names[feature]
        own = self.families[name] if kind == "family" else {name}
        rate = sum(token in own for token in self.tokens) / len(self.tokens)
        n = self.firings[feature]
        expected = n * max(self.null[kind][feature] / n, pooled, rate)
        return 1 - math.fsum(
            math.exp(-expected) * expected**i / math.factorial(i) for i in range(self.hits[kind][feature])
        )

    def supported(self) -> list[int]:
        """The features whose better question passes at a false discovery rate of 5 %."""
        found = {}
        for feature, n in enumerate(self.firings):
            if n:
                reads = min(1, 2 * min(self.p("reads", feature), self.p("family", feature)))
                found[feature] = min(1, 2 * min(reads, self.p("predicts", feature)))
        passed = [rank for rank, p in enumerate(sorted(found.values()), 1) if p * len(found) / rank <= 0.05]
        return sorted(found, key=lambda feature: found[feature])[: max(passed, default=0)]


def test_the_evidence_for_names_equals_a_loop_over_firings(
    model: LanguageModel, measured: Measured, slow: Slow
) -> None:
    c, m = candidate(model, dense=True), measured.metrics
    found = SlowNames(model, c, slow, measured.features["names"].tolist())
    n = sum(found.firings)
    for kind, share, null in (
        ("reads", "reads_precision", "reads_null"),
        ("family", "reads_family", "reads_family_null"),
        ("predicts", "predicts_precision", "predicts_null"),
    ):
        assert m[share] == pytest.approx(sum(found.hits[kind]) / n) and m[share] > 0
        assert m[null] == pytest.approx(sum(found.null[kind]) / n) and m[null] > 0
    assert m["reads_family"] > m["reads_precision"] > m["reads_null"]
    supported = found.supported()
    assert measured.features["supported"].nonzero().squeeze(1).tolist() == sorted(supported)
    assert m["supported_live"] == pytest.approx(len(supported) / m["n_live"])
    assert m["supported_firing"] == pytest.approx(sum(found.firings[f] for f in supported) / n)
    assert 0 < m["supported_live"] < 1


def test_support_of_permuted_names_equals_a_loop_over_firings(
    model: LanguageModel, measured: Measured, slow: Slow
) -> None:
    names = measured.features["names"].tolist()
    fired = [feature for feature, n in enumerate(measured.features["firings"].tolist()) if n]
    order = torch.randperm(len(fired), generator=torch.Generator().manual_seed(0)).tolist()
    dealt = dict(zip(fired, (names[fired[place]] for place in order)))
    permuted = [dealt.get(feature, name) for feature, name in enumerate(names)]
    found = SlowNames(model, candidate(model, dense=True), slow, permuted)
    supported = found.supported()
    assert supported, "four features have one name, so some are dealt their own"
    assert measured.metrics["supported_permuted"] == pytest.approx(len(supported) / len(fired))
    assert measured.metrics["supported_permuted_firing"] == pytest.approx(
        sum(found.firings[f] for f in supported) / sum(found.firings)
    )


def test_names_with_a_relation_are_judged_on_every_firing_of_every_passage(
    model: LanguageModel, held_out: list[np.ndarray], measured: Measured, slow: Slow
) -> None:
    words, halves = word_table(model), []
    relations, sample = evidence.RelationCounts(model.vocab_size), evidence.FiringSample(60)
    for passage in held_out:
        halves.append(evidence.halves_of(FlatText([passage])))
        relations.add(FlatText([passage]), halves[-1], words)
    for (number, position), fired in zip(slow.places, slow.fired):
        code = evidence.place_codes(np.array([number]), np.array([position]))
        for feature in fired:
            sample.add(np.array([feature]), halves[number], code)
    read = evidence.SampledText(evidence.PassageWords(dict(enumerate(held_out)), words), relations)
    firings = measured.features["firings"].numpy()
    found = evidence.relation_evidence(sample, read, firings > 0).shares(firings > 0, firings)
    assert {name: measured.metrics[name] for name in found} == pytest.approx(found)
    assert len(set(found.values())) > 5, "they are told apart"


def test_cross_entropy_may_be_taken_over_the_first_passages_only(
    model: LanguageModel, held_out: list[np.ndarray], measured: Measured
) -> None:
    few = measure(model, [candidate(model, dense=True)], held_out, ce_tokens=100)[0].metrics
    n = next(i for i in range(len(held_out)) if sum(len(p) - 1 for p in held_out[: i + 1]) >= 100) + 1
    assert (
        few["ce_tokens"]
        == sum(len(p) - 1 for p in held_out[:n])
        < few["tokens"]
        == measured.metrics["tokens"]
    )
    assert len(few["passage_delta_ce"]) == n
    alone = measure(model, [candidate(model, dense=True)], held_out[:n])[0].metrics
    for key in ("ce", "delta_ce", "kl", "ce_recovered_mean", "logit_lens_agreement"):
        assert few[key] == pytest.approx(alone[key], abs=1e-4), key
    for key in ("fve", "l0", "aligned_firing", "reads_family", "supported_live", "coverage"):
        assert few[key] == pytest.approx(measured.metrics[key], abs=1e-5), key
    assert few["passages"] == alone["passages"] != measured.metrics["passages"]


def test_several_dictionaries_and_layers_share_a_pass_without_changing_each_other(
    model: LanguageModel, held_out: list[np.ndarray], measured: Measured
) -> None:
    others = [candidate(model, seed=3, layer=1), candidate(model, dense=True), candidate(model, seed=4)]
    together = [m.metrics for m in measure(model, others, held_out)]
    for key, value in measured.metrics.items():
        if isinstance(value, float):
            assert together[1][key] == pytest.approx(value, abs=1e-4), key


def naming_of(model: LanguageModel, names: torch.Tensor) -> evaluation._Naming:
    """Features that fire exactly on their own token of a random text, under the given names."""
    draw = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 50, (40, 60), generator=draw)
    text = FlatText(list(tokens.numpy()), first=0)
    tables = NameTables(torch.arange(50)[:, None], matched_controls(torch.bincount(tokens.flatten())))
    naming = evaluation._Naming(names, tables)
    naming.counts.add(SparseCode(torch.ones(len(text), 1), tokens.reshape(-1, 1)), text)
    return naming


def test_a_feature_without_a_name_is_not_supported_and_reads_nothing(model: LanguageModel) -> None:
    live = torch.ones(50, dtype=torch.bool)
    names = torch.arange(50)
    whole = naming_of(model, names).figures(live)
    assert whole["supported_live"] == whole["reads_precision"] == whole["coverage_supported"] == 1
    names[:10] = -1
    some = naming_of(model, names).figures(live)
    assert some["supported_live"] == some["coverage_supported"] == pytest.approx(0.8)
    assert some["reads_precision"] == pytest.approx(some["supported_firing"])


def test_permuted_names_are_hardly_ever_supported_however_the_text_is_cut(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    draw = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 200, (100, 60), generator=draw)
    passages = list(tokens.numpy())
    tables = NameTables(torch.arange(200)[:, None], matched_controls(torch.bincount(tokens.flatten())))
    live = torch.ones(200, dtype=torch.bool)
    found = []
    for head in (1_000, 100_000):
        monkeypatch.setattr(evaluation, "HEAD", head)
        permuted = evaluation._Permuted(torch.arange(200), tables)
        for number in range(0, 100, 8):
            text = FlatText(passages[number : number + 8], first=0)
            code = SparseCode(torch.ones(len(text), 1), torch.from_numpy(text.current).long()[:, None])
            permuted.add(code, text)
        assert permuted.counts is None or int(permuted.counts.firings.sum()) == tokens.numel()
        found.append(permuted.supported(live))
    assert max(max(pair) for pair in found) <= 0.06


def test_every_way_of_naming_is_measured_where_it_is_known(
    model: LanguageModel, held_out: list[np.ndarray], measured: Measured
) -> None:
    assert {"named_nearest", "named_assigned", "named_lens"} <= set(
        measured.metrics
    ) and "named_lift" not in measured.metrics
    near = measured.metrics["named_nearest"]
    for key in ("supported_live", "supported_firing", "reads_precision", "reads_family"):
        assert near[key] == measured.metrics[key]
    c = candidate(model)
    lens = evaluation.rival_names(c, model)["lens"]
    assert lens.tolist() == [model.read_out(row[None])[0].argmax().item() for row in c.dictionary.directions]
    plain = measure(model, [c], held_out, rivals=False)[0].metrics
    assert "named_lens" not in plain


def test_each_features_result_is_written_beside_the_metrics(measured: Measured, tmp_path: Path) -> None:
    measured.save(tmp_path)
    found = load_file(tmp_path / "evidence.safetensors")
    assert set(found) == {"names", "cosines", "firings", "live", "supported", "q_reads", "q_predicts"}
    assert {len(tensor) for tensor in found.values()} == {60}
    share = metrics.weighted_share(found["supported"], found["live"])
    assert share == measured.metrics["supported_live"]


def test_what_cannot_be_evaluated_is_refused_before_any_time_is_spent(
    model: LanguageModel, held_out: list[np.ndarray]
) -> None:
    c = candidate(model)
    with pytest.raises(LexiscopeError, match="0 tokens"):
        measure(model, [c], held_out, ce_tokens=0)
    with pytest.raises(TextError, match="no held-out passage"):
        measure(model, [c], [])
    with pytest.raises(ModelError, match="no layer 9"):
        check_candidates(model, [c._replace(layer=9)])
    with pytest.raises(CheckpointError, match="width 7"):
        check_candidates(
            model,
            [
                c._replace(
                    dictionary=Dictionary(
                        torch.zeros(7, 4), torch.zeros(4), torch.zeros(4, 7), torch.zeros(7), TopK(2)
                    )
                )
            ],
        )
    with pytest.raises(CheckpointError, match="Anchors for 5 tokens"):
        check_candidates(model, [c._replace(fit=c.fit._replace(anchors=torch.zeros(5, model.d_model)))])
