"""Two texts told apart by the features that are active in a passage, beside what x and the tokens themselves
tell, and the named features that carry it.

Features are pooled over the passage by their largest activation, as they are or binarised (active anywhere).
Probes are logistic regressions on half of the passages, judged on the other half. Small sets of features are
those whose share of training passages differs most between the two texts.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from lexiscope.records import ChartPoint, ChartSeries, FeatureCell, StudyChart, StudyTable
from studies.inputs import encode, load_inputs, source_of
from studies.intervals import Interval, figure, mean_over, percent
from studies.names import FeatureNames, names_on
from studies.study import Findings, Study, StudyError, argument
from studies.two_texts import (
    TwoTextArguments,
    TwoTexts,
    correct,
    fit_probe,
    mean_state,
    pooled,
    read_two,
    shuffled,
    token_counts,
)

SIZES = (1, 2, 4, 8, 16, 32, 64)
SHUFFLES = 5


@dataclass(frozen=True, kw_only=True)
class ClassifyArguments(TwoTextArguments):
    shown: int = argument("features in the table", 16, least=1)


def accuracy(inputs: Tensor, texts: TwoTexts, label: Tensor) -> Interval:
    """Of a probe trained on half of the passages, inputs [passages, m], with labels [passages]; judged by the
    true labels of the others.
    """
    trains, judged = texts.trains, ~texts.trains
    probe = fit_probe(inputs[trains], label[trains])
    return mean_over(correct(probe, inputs[judged], texts.label[judged]))


def difference(active: Tensor, label: Tensor) -> Tensor:
    """[d_sae] share of passages of label 1 in which a feature is active, less that of label 0; active
    [passages, d_sae] bool.
    """
    return active[label > 0.5].float().mean(0) - active[label <= 0.5].float().mean(0)


def find(arguments: ClassifyArguments) -> Findings:
    inputs = load_inputs(arguments)
    if len(inputs.checkpoints) > 1:
        raise StudyError("This study looks at one dictionary; run it once for each.")
    model, checkpoint = inputs.model, inputs.checkpoints[0]
    dictionary, layer = checkpoint.dictionary, checkpoint.layer
    texts = read_two(model, arguments, [layer])
    stream, n = texts.stream, len(texts.label)
    code = encode(dictionary, stream.x[layer], stream.tokens)
    largest = pooled(code, stream.passage, n, dictionary.d_sae)
    active = largest > 0
    tried = {
        "features, binarised": active.float(),
        "features, largest activation": largest,
        "x, mean over the passage": mean_state(stream.x[layer], stream.passage, n),
        "token counts": token_counts(stream.tokens, stream.passage, n, model.vocab_size),
    }
    broken = shuffled(texts.label, texts.trains, SHUFFLES, seed=arguments.seed)
    results = {name: accuracy(each, texts, texts.label) for name, each in tried.items()}
    chance = {
        name: sum(accuracy(each, texts, label).value for label in broken) / SHUFFLES
        for name, each in tried.items()
    }
    figures = [
        figure(
            name,
            "share",
            results[name],
            "Passages that a probe on these inputs tells apart, of those it was not trained on.",
            control=chance[name],
        )
        for name in tried
    ]
    order = difference(active[texts.trains], texts.label[texts.trains]).abs().argsort(descending=True)
    by_size = {
        size: accuracy(active[:, order[:size]].float(), texts, texts.label)
        for size in SIZES
        if size <= dictionary.d_sae
    }
    few = by_size[min(8, max(by_size))]
    figures.append(
        figure(
            f"the {min(8, max(by_size))} most different features",
            "share",
            few,
            "The same, with the features whose share of training passages differs most.",
            control=accuracy(active[:, _drawn(order, active, arguments.seed)].float(), texts, texts.label),
        )
    )
    names = names_on(code, stream.tokens, d_sae=dictionary.d_sae, vocab_size=model.vocab_size)
    cells = FeatureNames(model, checkpoint, names)
    whole, x = results["features, binarised"], results["x, mean over the passage"]
    answer = (
        f"A probe on which features of {source_of(checkpoint)} are active tells {percent(whole.value)} of "
        f"the passages apart (x itself: {percent(x.value)}; token counts: "
        f"{percent(results['token counts'].value)}; shuffled labels: "
        f"{percent(chance['features, binarised'])}). The eight most different features give "
        f"{percent(few.value)}."
    )
    table = _table(order[: arguments.shown], active, texts, cells)
    return Findings(model.id, answer, figures, [table], _chart(by_size, results))


def _drawn(order: Tensor, active: Tensor, seed: int) -> Tensor:
    """As many features at random, of those that are active in a tenth of the passages or more."""
    usual = (active.float().mean(0) >= 0.1).nonzero().squeeze(1)
    pool = usual if len(usual) >= 8 else order
    return pool[torch.randperm(len(pool), generator=torch.Generator().manual_seed(seed))[:8]]


def _table(order: Tensor, active: Tensor, texts: TwoTexts, cells: FeatureNames) -> StudyTable:
    """Features with their share of the judged passages of each text."""
    judged = ~texts.trains
    shares = [
        active[judged & (texts.label == value)][:, order].float().mean(0).tolist() for value in (1.0, 0.0)
    ]
    named: list[FeatureCell] = cells(order.tolist())
    return StudyTable(
        title="Features that differ most on the training passages, and their share of the others",
        columns=["feature", "passages of the text", "passages of the other", "difference"],
        rows=[[cell, a, b, a - b] for cell, a, b in zip(named, *shares, strict=True)],
    )


def _chart(by_size: dict[int, Interval], results: dict[str, Interval]) -> StudyChart:
    sizes = sorted(by_size)
    series = [
        ChartSeries(
            name="features",
            points=[by_size[size].at(place) for place, size in enumerate(sizes)],
        )
    ]
    for name in ("x, mean over the passage", "token counts"):
        flat = [ChartPoint(x=place, y=results[name].value) for place in range(len(sizes))]
        series.append(ChartSeries(name=name, points=flat, control=True))
    return StudyChart(
        kind="lines",
        title=f"Passages told apart by few features ({', '.join(map(str, sizes))} of them, left to right)",
        x_label="log₂ of the number of features",
        y_label="share",
        series=series,
    )


STUDY = Study(
    "classify",
    "How well do features tell two texts apart, beside x and the tokens themselves?",
    "Gallifant et al. 2025, Sparse autoencoder features for classifications and transferability (arXiv "
    "2502.11367)",
    "the same probe trained on shuffled labels; for few features, as many drawn at random.",
    "over passages that no probe was trained on (percentile bootstrap).",
    ClassifyArguments,
    find,
)
