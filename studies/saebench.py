"""The metrics of SAEBench that need no labelled data and no second model: core, sparse probing, targeted
probe perturbation (TPP) and spurious correlation removal (SCR).

The classes are the files of text. TPP: the features that write most along a class's probe are ablated, and
the accuracy of that probe should fall while the others' stay. SCR: a probe is trained where the file and the
case of its letters go together (one file as it is, the other in lower case); the features of one of the two
are ablated, and the share of the accuracy on the other that comes back is the score. Every second passage
judges.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lexiscope.dictionary import Dictionary
from lexiscope.language_model import LanguageModel
from lexiscope.records import ChartPoint, ChartSeries, StudyChart, StudyFigure, StudyTable
from lexiscope.records.study import Cell
from studies.controls import active_of, random_dictionary
from studies.inputs import Inputs, Stream, check_fixed_rows, encode, load_inputs, read_passages, read_stream
from studies.intervals import Interval, figure, mean_over, percent, ratio_over
from studies.interventions import Positions, losses, unchanged
from studies.probe_ablation import Texts, scr, sparse_probing, tpp
from studies.study import Arguments, Findings, Study, StudyError, argument
from studies.two_texts import FEWEST

PROBED = (1, 2, 5)
"""features of a sparse probe"""
ABLATED = (2, 5, 10, 20, 50)
AT = 10
"""of those, what the figures are about"""
OWN, RANDOM = "features", "random directions"


@dataclass(frozen=True, kw_only=True)
class BenchArguments(Arguments):
    judged: int = argument("passages that cross-entropies are measured on, at most", 30, least=2)


def lowered(model: LanguageModel, found: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The same passages in lower case, at most as long."""
    return [
        np.array([model.bos, *model.tokenise(model.text(ids[1:].tolist()).lower())][: len(ids)])
        for ids in found
    ]


def find(arguments: BenchArguments) -> Findings:
    inputs = load_inputs(arguments)
    if len(inputs.checkpoints) > 1:
        raise StudyError("This study looks at one dictionary; run it once for each.")
    model, dictionary, layer = inputs.model, inputs.checkpoints[0].dictionary, inputs.layers[0]
    check_fixed_rows(dictionary)
    if len(arguments.text) < 3:
        raise StudyError("The classes are files: perturbing one probe and not the others needs three --text.")
    files = [
        read_passages(model, [file], tokens=arguments.tokens, length=arguments.length, field=arguments.field)
        for file in arguments.text
    ]
    n = min(map(len, files))
    if n < FEWEST:
        raise StudyError(f"Each file must give {FEWEST} passages; the shortest gave {n}.")
    every = [passage for file in files for passage in file[:n]]
    cased = every[: 2 * n] + lowered(model, every[: 2 * n])
    plain, both = (read_stream(model, some, [layer]) for some in (every, cased))
    measured = {}
    for name in (OWN, RANDOM):
        used = dictionary
        if name == RANDOM:
            x = plain.x[layer]
            active = active_of(encode(dictionary, x, plain.tokens))
            used = random_dictionary(dictionary, x, active=active, seed=arguments.seed)
        texts, pairs = (
            Texts(each.x[layer], encode(used, each.x[layer], each.tokens), each.passage, len(some))
            for each, some in ((plain, every), (both, cased))
        )
        measured[name] = _measured(texts, pairs, used, n)
    core = _core(inputs, every[1::2][: arguments.judged], plain)
    figures = [*core, *_figures(measured)]
    own, chance = measured[OWN], measured[RANDOM]
    score, by_chance = (each.scr[AT] for each in (own, chance))
    answer = (
        f"One feature tells a file's passages in {percent(own.probing[1].value)} (a random direction: "
        f"{percent(chance.probing[1].value)}; the mean state: {percent(own.state.value)}). Ablating {AT} "
        f"features of a class lowers its probe by {percent(own.tpp[AT].value)} more than the others' (random "
        f"directions: {percent(chance.tpp[AT].value)}), and ablating {AT} of a spurious attribute "
        f"brings back {_share(score)} of the lost accuracy (random directions: {_share(by_chance)})."
    )
    rows: list[list[Cell]] = [
        [m, own.tpp[m].value, chance.tpp[m].value, own.scr[m], chance.scr[m]] for m in ABLATED
    ]
    table = StudyTable(
        title="By the number of features ablated",
        columns=["features", "TPP", "random directions", "SCR", "random directions"],
        rows=rows,
    )
    return Findings(model.id, answer, figures, [table], _chart(measured))


def _share(score: float | None) -> str:
    return "none (none was lost)" if score is None else percent(score)


class Measured(NamedTuple):
    """One dictionary's scores, by the number of features."""

    probing: dict[int, Interval]
    state: Interval
    """the same of the mean state"""
    tpp: dict[int, Interval]
    scr: dict[int, float | None]


def _measured(texts: Texts, pairs: Texts, dictionary: Dictionary, n: int) -> Measured:
    """`texts` are n passages of each file; `pairs` those of the first two as they are, then in lower case."""
    pooled, states = texts.pooled(dictionary.d_sae), texts.states
    source = torch.arange(texts.n) // n
    trains = torch.arange(texts.n) % n % 2 == 0
    labels = [(source == each).float() for each in range(texts.n // n)]

    def over_classes(k: int | None) -> Interval:
        inputs = states if k is None else pooled
        each = [sparse_probing(inputs, label, trains, k or inputs.shape[1]) for label in labels]
        return mean_over(torch.stack(each).mean(0))

    first = (torch.arange(pairs.n) // n % 2 == 0).float()
    second = (torch.arange(pairs.n) < 2 * n).float()
    halves = torch.arange(pairs.n) % n % 2 == 0
    return Measured(
        {k: over_classes(k) for k in PROBED},
        over_classes(None),
        {m: mean_over(tpp(texts, dictionary, source, trains, m)) for m in ABLATED},
        {m: scr(pairs, dictionary, first, second, halves, m) for m in ABLATED},
    )


def _core(inputs: Inputs, judged: Sequence[np.ndarray], stream: Stream) -> list[StudyFigure]:
    """Of the dictionary alone."""
    dictionary, layer = inputs.checkpoints[0].dictionary, inputs.layers[0]

    def rebuilt(x: Tensor, at: Positions) -> Tensor:
        return dictionary.reconstruct(x, at.tokens)

    changes = {"": unchanged, "rebuilt": rebuilt, "nothing": lambda x, at: torch.zeros_like(x)}
    nats = losses(inputs.model, layer, judged, changes)
    recovered = ratio_over(
        nats["nothing"] - nats["rebuilt"], nats["nothing"] - nats[""], torch.arange(len(judged))
    )
    x = stream.x[layer]
    code = encode(dictionary, x, stream.tokens)
    rest = (x - dictionary.decode(code, x, stream.tokens)).square().sum(-1)
    left = ratio_over(rest, (x - x.mean(0)).square().sum(-1), stream.passage)
    active = mean_over((code.values != 0).sum(1).float(), stream.passage)
    explained = Interval(1 - left.value, 1 - left.high, 1 - left.low)
    return [
        figure("L0", "number", active, "Active features a token."),
        figure("variance explained", "share", explained, "Of the stream, on this text."),
        figure(
            "CE loss score",
            "share",
            recovered,
            "Of the cross-entropy that is lost without the stream, what the reconstruction keeps.",
        ),
    ]


def _figures(measured: Mapping[str, Measured]) -> list[StudyFigure]:
    own, chance = measured[OWN], measured[RANDOM]
    figures = [
        figure(
            f"sparse probing, {k} feature{'s' if k > 1 else ''}",
            "share",
            own.probing[k],
            "Balanced accuracy of a probe on the features whose mean differs most, over the files.",
            control=chance.probing[k],
        )
        for k in PROBED
    ]
    figures.append(figure("probe on the mean state", "share", own.state, "The same with x itself."))
    figures.append(
        figure(
            f"TPP, {AT} features",
            "share",
            own.tpp[AT],
            "How much more the accuracy of a class's probe falls than the others' without its features.",
            control=chance.tpp[AT],
        )
    )
    score = own.scr[AT]
    if score is not None:
        figures.append(
            figure(
                f"SCR, {AT} features",
                "share",
                score,
                "Of the accuracy that a spurious attribute cost, what comes back without its features.",
                control=chance.scr[AT],
            )
        )
    return figures


def _chart(measured: Mapping[str, Measured]) -> StudyChart:
    series = []
    for name, each in measured.items():
        scores: dict[str, Mapping[int, float | None]] = {
            "TPP": {m: each.tpp[m].value for m in ABLATED},
            "SCR": each.scr,
        }
        for metric, found in scores.items():
            points = [ChartPoint(x=m, y=value) for m, value in found.items() if value is not None]
            if points:
                label = metric if name == OWN else f"{metric}, {name}"
                series.append(ChartSeries(name=label, points=points, control=name == RANDOM))
    return StudyChart(
        kind="lines",
        title="Targeted probe perturbation and spurious correlation removal",
        x_label="features ablated",
        y_label="share",
        series=series,
    )


STUDY = Study(
    "saebench",
    "How does the dictionary fare on the metrics of SAEBench that need no labels?",
    "Karvonen et al. 2025, SAEBench (arXiv 2503.09532), and its code",
    "a dictionary of random directions with the same selection.",
    "over passages that trained no probe, or over classes for TPP (percentile bootstrap).",
    BenchArguments,
    find,
)
