"""A text unlearned by negative scaling of the features that fire on it alone: what it costs there, and on
another text.

Features are chosen on half of the passages: those that are active at less than `retained` of the other text's
positions, by the share of positions of the text to forget at which they are (Farrell et al. 2024, as in the
unlearning metric of SAEBench). Where one of them is active it takes −s times its mean activation; at s = 0 it
is ablated. The rise of the cross-entropy is measured on the other half of both texts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lexiscope.records import ChartPoint, ChartSeries, StudyChart, StudyTable
from lexiscope.records.study import Cell
from lexiscope.sparse_code import SparseCode
from studies.controls import drawn_alike
from studies.inputs import check_fixed_rows, encode, load_inputs, own_passages, read_stream
from studies.intervals import Interval, figure, mean_over
from studies.interventions import Change, clamped, losses, unchanged
from studies.names import FeatureNames, names_on
from studies.study import Findings, Study, StudyError, argument
from studies.two_texts import FEWEST, TwoTextArguments, check_different

SCALES = (0.0, 0.5, 1.0, 2.0, 4.0)
SCALE = 2.0
"""the one that the answer is about"""


@dataclass(frozen=True, kw_only=True)
class UnlearnArguments(TwoTextArguments):
    features: int = argument("features that are scaled", 20, least=1)
    retained: float = argument("largest share of the other text's positions that one may be active at", 0.01)
    judged: int = argument("passages of each text that are judged, at most", 40, least=2)


def activity(code: SparseCode, d_sae: int) -> tuple[Tensor, Tensor]:
    """([d_sae] share of positions at which each feature is active, [d_sae] its mean activation there)."""
    fired = code.values != 0
    counts = torch.bincount(code.indices[fired], minlength=d_sae)
    sums = torch.bincount(code.indices[fired], code.values[fired].double(), minlength=d_sae)
    return counts / len(code.values), (sums / counts.clamp_min(1)).float()


def chosen_features(forget: Tensor, retain: Tensor, *, limit: float, n: int) -> Tensor:
    """[≤ n] features by their share of positions in the text to forget, forget [d_sae], of those whose share
    of the other text, retain [d_sae], is below `limit`.
    """
    score = torch.where(retain < limit, forget, torch.zeros_like(forget))
    order = score.argsort(descending=True, stable=True)[:n]
    return order[score[order] > 0]


def scaled(means: Tensor, features: Tensor, scale: float) -> Tensor:
    """[d_sae] the values for `clamped`: −scale times its mean for each of features [m], NaN for the rest."""
    values = torch.full_like(means, torch.nan)
    values[features] = -scale * means[features]
    return values


def find(arguments: UnlearnArguments) -> Findings:
    inputs = load_inputs(arguments)
    if len(inputs.checkpoints) > 1:
        raise StudyError("This study looks at one dictionary; run it once for each.")
    model, checkpoint = inputs.model, inputs.checkpoints[0]
    layer, dictionary = checkpoint.layer, checkpoint.dictionary
    check_fixed_rows(dictionary)
    both = [own_passages(model, arguments, text) for text in (arguments.text, arguments.against)]
    if min(map(len, both)) < FEWEST:
        raise StudyError(
            f"Unlearning needs {FEWEST} passages of each text; they gave {len(both[0])} and {len(both[1])} "
            f"of {arguments.length} tokens. Give more text, or a smaller --length."
        )
    check_different(*both)
    streams = [read_stream(model, found[::2], [layer]) for found in both]
    codes = [encode(dictionary, stream.x[layer], stream.tokens) for stream in streams]
    (forget, means), (retain, _) = (activity(code, dictionary.d_sae) for code in codes)
    chosen = chosen_features(forget, retain, limit=arguments.retained, n=arguments.features)
    if not len(chosen):
        raise StudyError(
            f"No feature is active in the text to forget and at less than {arguments.retained:.1%} of the "
            "other's positions: the dictionary does not tell them apart. Raise --retained."
        )
    # as many firings on the text to forget, without regard to the other text
    drawn = drawn_alike(forget, chosen, seed=arguments.seed)
    sets = {"chosen": chosen, "random": drawn}
    changes: dict[str, Change] = {"": unchanged}
    for name, features in sets.items():
        for scale in SCALES:
            changes[f"{name} {scale}"] = clamped(dictionary, scaled(means, features, scale))
    rises: dict[str, dict[str, list[Interval]]] = {name: {} for name in sets}
    for side, found in zip(("forget", "retain"), both, strict=True):
        after = losses(model, layer, found[1::2][: arguments.judged], changes)
        for name in sets:
            rises[name][side] = [mean_over(after[f"{name} {scale}"] - after[""]) for scale in SCALES]
    figures, best = [], SCALES.index(SCALE)
    for at in (0, best):
        how = f"scale −{SCALES[at]:g}" if SCALES[at] else "ablated"
        for side, label in (("forget", "the text to forget"), ("retain", "the other text")):
            figures.append(
                figure(
                    f"rise on {label}, {how}",
                    "nats",
                    rises["chosen"][side][at],
                    f"Of the cross-entropy, where {len(chosen)} features take −{SCALES[at]:g} times their "
                    "mean activation wherever they are active.",
                    control=rises["random"][side][at],
                )
            )
    top = {side: rises["chosen"][side][best] for side in ("forget", "retain")}
    by_chance = {side: rises["random"][side][best] for side in ("forget", "retain")}
    ablated = f"{rises['chosen']['forget'][0].value:.3f}".replace("-", "−")
    answer = (
        f"{len(chosen)} features at −{SCALES[best]:g} times their activation raise the cross-entropy of the "
        f"text to forget by {top['forget'].value:.3f} ({top['forget'].low:.3f} to {top['forget'].high:.3f}) "
        f"and of the other by {top['retain'].value:.3f} (random features that fire as often: "
        f"{by_chance['forget'].value:.3f} and {by_chance['retain'].value:.3f}). Ablating them changes it by "
        f"{ablated}."
    )
    stream, code = streams[0], codes[0]
    names = names_on(code, stream.tokens, d_sae=dictionary.d_sae, vocab_size=model.vocab_size)
    cells = FeatureNames(model, checkpoint, names)(chosen.tolist())
    rows: list[list[Cell]] = [
        [cell, float(forget[feature]), float(retain[feature])]
        for feature, cell in zip(chosen.tolist(), cells, strict=True)
    ]
    table = StudyTable(
        title="The features, and the share of positions at which they are active (training passages)",
        columns=["feature", "text to forget", "other text"],
        rows=rows,
    )
    return Findings(model.id, answer, figures, [table], _chart(rises))


def _chart(rises: dict[str, dict[str, list[Interval]]]) -> StudyChart:
    def points(found: Sequence[Interval]) -> list[ChartPoint]:
        return [each.at(scale) for scale, each in zip(SCALES, found, strict=True)]

    series = [
        ChartSeries(name="text to forget", points=points(rises["chosen"]["forget"])),
        ChartSeries(name="other text", points=points(rises["chosen"]["retain"])),
        *(
            ChartSeries(name=f"{name}, random features", points=points(rises["random"][side]), control=True)
            for side, name in (("forget", "text to forget"), ("retain", "other text"))
        ),
    ]
    return StudyChart(
        kind="lines",
        title="Rise of the cross-entropy by the negative scale of the features",
        x_label="−scale, in mean activations (0: ablated)",
        y_label="nats",
        series=series,
    )


STUDY = Study(
    "unlearn",
    "Can a text be unlearned by negative scaling of the features that fire on it alone?",
    "Farrell, Lau and Conmy 2024, Applying sparse autoencoders to unlearn knowledge in language models "
    "(arXiv 2410.19278); the choice of features as in SAEBench (arXiv 2503.09532)",
    "as many features that fire as often on the text to forget, at the same scale.",
    "over passages that did not choose the features (percentile bootstrap).",
    UnlearnArguments,
    find,
)
