"""Conditional steering of wording about the past, from hindsight to what was known then.

Features are chosen on sentences about business: those that are more active, on average, in endings that are
aware of their date than in endings that look ahead. Their sum is added on sentences about history, from the
first position on at which a gate opens: features that write more there than in a neutral text do so. What
counts is how much likelier the date-aware ending becomes against the one that looks ahead, and what the
steering costs a neutral text, where the gate should stay closed. The source amplifies such features in large
models that forecast; sentences and gate are ours.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lexiscope.dictionary import Dictionary
from lexiscope.records import ChartPoint, ChartSeries, StudyChart, StudyTable
from lexiscope.records.study import Cell
from lexiscope.sparse_code import SparseCode
from studies.controls import drawn_alike
from studies.dated_wording import Wording, dated
from studies.inputs import Stream, encode, load_inputs, own_passages, read_stream
from studies.intervals import Interval, figure, mean_over, percent
from studies.interventions import Change, Positions, added, gated, losses, unchanged
from studies.names import FeatureNames, names_on
from studies.study import Arguments, Findings, Study, StudyError, argument

FEWEST = 10
"""passages of the neutral text that the gate is fitted on, and as many that judge it"""
OPENED = 0.05
"""share of neutral passages in which the gate may open"""
AWARE, AHEAD, RANDOM = "amplify date-aware features", "damp look-ahead features", "random features"


@dataclass(frozen=True, kw_only=True)
class ForecastArguments(Arguments):
    features: int = argument("features that are steered with, and as many in the gate", 16, least=1)
    strength: float = argument("norm of what is added, in median norms of the stream", 0.2, least=0)
    sentences: int = argument("sentences of each domain, at most", 48, least=8)


def mean_activations(code: SparseCode, kept: Tensor, d_sae: int) -> Tensor:
    """[d_sae] the mean activation of each feature over the positions of a mask [n]."""
    sums = torch.bincount(code.indices[kept].flatten(), code.values[kept].flatten().double(), minlength=d_sae)
    return (sums / kept.sum().clamp_min(1)).float()


class Gate:
    """Opens where its features write more than a cut: Σ z ‖d‖ over those that are active."""

    def __init__(self, dictionary: Dictionary, features: Tensor, cut: float = torch.inf) -> None:
        self.dictionary, self.features, self.cut = dictionary, features, cut
        self.weight = torch.zeros(dictionary.d_sae)
        self.weight[features] = dictionary.W_dec[features].float().norm(dim=-1)

    def score(self, x: Tensor, at: Positions) -> Tensor:
        """[n] what its features write at each position."""
        code = self.dictionary.encode(x, at.tokens)
        return (self.weight[code.indices] * code.values).sum(-1)

    def __call__(self, x: Tensor, at: Positions) -> Tensor:
        return self.score(x, at) > self.cut

    def fitted(self, stream: Stream, layer: int) -> "Gate":
        """The same gate with the cut above which OPENED of a neutral text's passages come."""
        return Gate(self.dictionary, self.features, float(self.largest(stream, layer).quantile(1 - OPENED)))

    def largest(self, stream: Stream, layer: int) -> Tensor:
        """[passages] the largest score in each passage of a text."""
        scores = self.score(stream.x[layer], Positions(stream.tokens, stream.passage))
        most = torch.zeros(stream.n_passages)
        return most.scatter_reduce_(0, stream.passage, scores, "amax")


def find(arguments: ForecastArguments) -> Findings:
    inputs = load_inputs(arguments)
    if len(inputs.checkpoints) > 1:
        raise StudyError("This study looks at one dictionary; run it once for each.")
    model, checkpoint = inputs.model, inputs.checkpoints[0]
    layer, dictionary = checkpoint.layer, checkpoint.dictionary
    neutral = own_passages(model, arguments)
    if len(neutral) < 2 * FEWEST:
        raise StudyError(
            f"The neutral text needs {2 * FEWEST} passages and gave {len(neutral)}: give more, or a smaller "
            "--length."
        )
    found = dated(model, "business", arguments.sentences, seed=arguments.seed)
    judged = dated(model, "history", arguments.sentences, seed=arguments.seed)
    calm = read_stream(model, neutral[::2], [layer])
    both = read_stream(model, [*found.aware, *found.ahead], [layer])
    code, calm_code = (encode(dictionary, each.x[layer], each.tokens) for each in (both, calm))
    aware, ahead = _sides(found, both)
    means = [mean_activations(code, side, dictionary.d_sae) for side in (aware, ahead)]
    difference = (means[0] - means[1]) * dictionary.W_dec.norm(dim=-1)
    every = torch.ones(len(calm_code.values), dtype=torch.bool)
    usual = mean_activations(calm_code, every, dictionary.d_sae)
    dating = (torch.minimum(*means) - usual) * dictionary.W_dec.norm(dim=-1)
    chosen = {
        AWARE: difference.argsort(descending=True)[: arguments.features],
        AHEAD: difference.argsort()[: arguments.features],
    }
    gate = Gate(dictionary, dating.argsort(descending=True)[: arguments.features]).fitted(calm, layer)
    test = read_stream(model, [*judged.aware, *judged.ahead], [layer])
    opens = mean_over((gate.largest(test, layer) > gate.cut).float())
    if opens.value <= OPENED:
        raise StudyError(
            f"The gate opens in {percent(opens.value)} of the sentences about history: no features of this "
            "dictionary tell dated wording from the text. Try another layer or a larger dictionary."
        )
    fired = torch.bincount(code.indices[code.values != 0], minlength=dictionary.d_sae)
    size = arguments.strength * float(calm.x[layer].norm(dim=-1).median())
    alike = drawn_alike(fired, chosen[AWARE], seed=arguments.seed)
    weights = difference[chosen[AWARE]].sort(descending=True).values[: len(alike)]
    vectors = {
        AWARE: _vector(dictionary, chosen[AWARE], difference[chosen[AWARE]]),
        AHEAD: _vector(dictionary, chosen[AHEAD], difference[chosen[AHEAD]]),
        RANDOM: _vector(dictionary, alike, weights),
    }
    changes: dict[str, Change] = {"": unchanged}
    for name, vector in vectors.items():
        changes[name] = added(size * vector)
        changes[f"{name}, gated"] = gated(changes[name], gate)
    sides = [losses(model, layer, each, changes, first=judged.first) for each in (judged.aware, judged.ahead)]
    gains = {
        name: mean_over((sides[1][name] - sides[0][name]) - (sides[1][""] - sides[0][""]))
        for name in changes
        if name
    }
    before = mean_over(sides[1][""] - sides[0][""])
    after = losses(model, layer, neutral[1::2], changes)
    costs = {name: mean_over(after[name] - after[""]) for name in changes if name}
    closed = mean_over((gate.largest(read_stream(model, neutral[1::2], [layer]), layer) > gate.cut).float())
    figures = [
        figure(
            f"shift to the date-aware ending: {name}",
            "nats",
            gains[name],
            "How much likelier, a token, it becomes against the ending that looks ahead.",
            control=gains[f"{RANDOM}, gated" if name.endswith("gated") else RANDOM],
        )
        for name in (f"{AWARE}, gated", AWARE, f"{AHEAD}, gated", AHEAD)
    ]
    figures += [
        figure(
            f"cost on the neutral text: {name}",
            "nats",
            costs[name],
            "Rise of its cross-entropy.",
            control=costs[f"{RANDOM}, gated" if name.endswith("gated") else RANDOM],
        )
        for name in (f"{AWARE}, gated", AWARE)
    ]
    figures += [
        figure("date-aware against look-ahead, unsteered", "nats", before, "How much likelier, a token."),
        figure(
            "gate",
            "share",
            opens,
            "Sentences about history in which it opens; control: neutral passages that did not fit it.",
            control=closed,
        ),
    ]
    own = gains[f"{AWARE}, gated"]
    answer = (
        f"Amplified behind a gate, {arguments.features} features chosen on business make date-aware "
        f"endings about history {own.value:.3f} nats a token likelier against those that look ahead "
        f"({own.low:.3f} to {own.high:.3f}; random features: {gains[f'{RANDOM}, gated'].value:.3f}); damping "
        f"look-ahead features {gains[f'{AHEAD}, gated'].value:.3f}. The gate opens in {percent(opens.value)} "
        f"of those sentences and {percent(closed.value)} of the neutral text, whose cross-entropy rises by "
        f"{costs[f'{AWARE}, gated'].value:.4f} ({costs[AWARE].value:.4f} without a gate)."
    )
    names = names_on(code, both.tokens, d_sae=dictionary.d_sae, vocab_size=model.vocab_size)
    cells = FeatureNames(model, checkpoint, names)
    rows: list[list[Cell]] = [
        [name, cell, float(difference[feature])]
        for name, features in chosen.items()
        for feature, cell in zip(features.tolist(), cells(features.tolist()), strict=True)
    ]
    table = StudyTable(
        title="The features, and how much more they write in date-aware endings (business)",
        columns=["used to", "feature", "difference"],
        rows=rows,
    )
    return Findings(model.id, answer, figures, [table], _chart(gains, costs))


def _sides(found: Wording, stream: Stream) -> tuple[Tensor, Tensor]:
    """Masks [n] of the positions of the endings, of each wording: counted from the end of a passage, since
    attention sinks are left out of a stream.
    """
    n = len(found.aware)
    kept = torch.zeros(len(stream.tokens), dtype=torch.bool)
    for passage, ids in enumerate([*found.aware, *found.ahead]):
        own = (stream.passage == passage).nonzero().squeeze(1)
        kept[own[-(len(ids) - found.first[passage % n]) :]] = True
    return kept & (stream.passage < n), kept & (stream.passage >= n)


def _vector(dictionary: Dictionary, features: Tensor, weights: Tensor) -> Tensor:
    return F.normalize(weights @ dictionary.directions[features].float(), dim=0)


def _chart(gains: dict[str, Interval], costs: dict[str, Interval]) -> StudyChart:
    names = [f"{name}{gate}" for name in (AWARE, AHEAD, RANDOM) for gate in (", gated", "")]

    def points(found: dict[str, Interval]) -> list[ChartPoint]:
        return [found[name].at(place) for place, name in enumerate(names)]

    return StudyChart(
        kind="bars",
        title="Shift to the date-aware ending, and the rise of a neutral text's cross-entropy",
        x_label="nats a token",
        categories=names,
        series=[
            ChartSeries(name="shift", points=points(gains)),
            ChartSeries(name="cost", points=points(costs)),
        ],
    )


STUDY = Study(
    "forecast",
    "Do time-aware features, steered where dates are at stake, shift hindsight to what was known?",
    "Merchant and Levy 2026, Forecasting with LLMs: improved generalization through feature steering (arXiv "
    "2606.27199), of which the abstract was read",
    "as many features that fire as often in the sentences that chose them, added alike.",
    "over sentences or passages that chose nothing (percentile bootstrap).",
    ForecastArguments,
    find,
)
