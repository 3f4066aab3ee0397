"""Which layer tells two texts apart, and by which named features: the dictionary as a stethoscope.

The specificity of a feature is the share of passages in which it is active in one text, less that in the
other. A layer's score takes the `features` of largest specificity on half of the passages and averages theirs
on the other half, each with the sign that it had on the first: 0 by chance. The source ranks layers by such a
score; this definition is ours.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from lexiscope.records import ChartSeries, StudyChart, StudyTable
from lexiscope.records.study import Cell
from studies.classify import difference
from studies.inputs import encode, load_inputs, source_of
from studies.intervals import Interval, figure, mean_over
from studies.names import FeatureNames, names_on
from studies.study import Findings, Study, StudyError, argument
from studies.two_texts import TwoTextArguments, auc, fit_probe, mean_state, pooled, read_two, shuffled

SHUFFLES = 20
"""of the labels, behind the control"""


@dataclass(frozen=True, kw_only=True)
class LayersArguments(TwoTextArguments):
    features: int = argument("features of a layer's score", 32, least=1)
    shown: int = argument("features of each layer in the table", 4, least=1)


def specificity(active: Tensor, label: Tensor, trains: Tensor, judge: Tensor, features: int) -> Interval:
    """A layer's score: active [passages, d_sae] bool; label [passages] as the training half has it, judge
    [passages] the true one.
    """
    found = difference(active[trains], label[trains])
    chosen = found.abs().argsort(descending=True)[:features]
    signed = active[~trains][:, chosen].float() * found[chosen].sign()
    own = judge[~trains]
    # weighted so that the mean over passages is the difference of the two texts' means
    side = torch.where(own > 0.5, 1 / (own > 0.5).float().mean(), -1 / (own <= 0.5).float().mean())
    activity = signed.mean(1)
    middle = (activity[own > 0.5].mean() + activity[own <= 0.5].mean()) / 2
    return mean_over((activity - middle) * side)


def find(arguments: LayersArguments) -> Findings:
    inputs = load_inputs(arguments, at_least=2)
    checkpoints = sorted(inputs.checkpoints, key=lambda checkpoint: checkpoint.layer)
    layers = [checkpoint.layer for checkpoint in checkpoints]
    if len(set(layers)) < len(layers):
        raise StudyError(f"This study compares layers, one dictionary each; these are of layers {layers}.")
    model = inputs.model
    texts = read_two(model, arguments, layers)
    stream, n = texts.stream, len(texts.label)
    broken = shuffled(texts.label, texts.trains, SHUFFLES, seed=arguments.seed)
    scores, chance, by_x = [], [], []
    rows: list[list[Cell]] = []
    for checkpoint in checkpoints:
        x, dictionary = stream.x[checkpoint.layer], checkpoint.dictionary
        code = encode(dictionary, x, stream.tokens)
        active = pooled(code, stream.passage, n, dictionary.d_sae) > 0
        scores.append(specificity(active, texts.label, texts.trains, texts.label, arguments.features))
        random = [
            specificity(active, label, texts.trains, texts.label, arguments.features).value
            for label in broken
        ]
        chance.append(mean_over(torch.tensor(random)))
        states = mean_state(x, stream.passage, n)
        probe = fit_probe(states[texts.trains], texts.label[texts.trains])
        by_x.append(auc(probe(states[~texts.trains]), texts.label[~texts.trains]))
        names = names_on(code, stream.tokens, d_sae=dictionary.d_sae, vocab_size=model.vocab_size)
        found = difference(active[texts.trains], texts.label[texts.trains])
        judged = difference(active[~texts.trains], texts.label[~texts.trains])
        for sign in (1, -1):
            most = (sign * found).argsort(descending=True)[: arguments.shown]
            cells = FeatureNames(model, checkpoint, names)(most.tolist())
            for cell, value in zip(cells, judged[most].tolist(), strict=True):
                side = "the text" if sign > 0 else "the other"
                rows.append([source_of(checkpoint), side, cell, value])
    best_layer = max(range(len(scores)), key=lambda place: scores[place].value)
    figures = [
        figure(
            f"specificity of {source_of(checkpoint)}",
            "share",
            score,
            f"Difference between the texts in the share of passages in which its {arguments.features} most "
            "specific features are active, chosen and signed on other passages.",
            control=by_chance,
        )
        for checkpoint, score, by_chance in zip(checkpoints, scores, chance, strict=True)
    ]
    figures += [
        figure(
            f"AUC of x at layer {layer}",
            "number",
            value,
            "Of a linear probe on the passage's mean state, on other passages; 0.5 by chance.",
            control=0.5,
        )
        for layer, value in zip(layers, by_x, strict=True)
    ]
    best = scores[best_layer]
    clear = sum(score.high < best.low for score in scores)
    others = len(scores) - 1
    lower = f"{clear} of the {others} other layers are" if clear else f"none of the {others} other layers is"
    answer = (
        f"Features tell the two texts apart most at {source_of(checkpoints[best_layer])} (specificity "
        f"{best.value:.2f}, {best.low:.2f} to {best.high:.2f}; shuffled labels: "
        f"{chance[best_layer].value:.2f}); {lower} clearly lower."
    )
    points = [[each.at(layer) for layer, each in zip(layers, some, strict=True)] for some in (scores, chance)]
    chart = StudyChart(
        kind="lines",
        title="How specific the features of each layer are to one of the two texts",
        x_label="layer",
        y_label="specificity",
        series=[
            ChartSeries(name="features", points=points[0]),
            ChartSeries(name="shuffled labels", points=points[1], control=True),
        ],
    )
    table = StudyTable(
        title="The most specific features of each layer, and their difference on other passages",
        columns=["dictionary", "more in", "feature", "difference"],
        rows=rows,
    )
    return Findings(model.id, answer, figures, [table], chart)


STUDY = Study(
    "layers",
    "Which layer tells two texts apart, and by which named features?",
    "SAEs as stethoscopes, not scalpels 2026 (arXiv 2605.28649): a specificity score that ranks layers",
    "features chosen by shuffled labels.",
    "over passages that did not choose the features (percentile bootstrap).",
    LayersArguments,
    find,
)
