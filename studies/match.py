"""Features of successive layers matched one to one by their weights alone, and what becomes of their names:
which persist, drift, fade and appear.

SAE Match (Balagansky, Maksimov and Gavrilov 2024): the assignment of least Σ‖θ_a d_a − θ_b d_b‖² over decoder
rows d into which each feature's threshold θ is folded, so that features of another scale are not matched. A
TopK code has no threshold: θ is then the 10th percentile of the feature's activations on the text. Whether
a match is right is judged by what the weights do not say: the correlation of the activations on the text.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from lexiscope.dictionary import Dictionary
from lexiscope.records import ChartLink, ChartNode, FeatureCell, StudyChart, StudyTable
from lexiscope.selection import Threshold
from lexiscope.sparse_code import SparseCode
from studies.inputs import encode, firings, load_inputs, own_passages, read_stream, source_of
from studies.intervals import Interval, figure, mean_over, percent
from studies.names import FeatureNames, names_on
from studies.study import Arguments, Findings, Study, StudyError, argument

PERSISTS = 0.5
"""least correlation of the activations of a feature that is still there one layer on"""
LOW = 0.1
"""quantile of a feature's activations that stands for its threshold"""


@dataclass(frozen=True, kw_only=True)
class MatchArguments(Arguments):
    features: int = argument("features a layer that are matched: those that fire most", 1_000, least=2)
    shown: int = argument("features drawn in each layer, and rows of the table", 12, least=1)


class Layer(NamedTuple):
    """One layer's most firing features [m] on the text [n]."""

    indices: Tensor
    """[m] their numbers in the dictionary"""
    rows: Tensor
    """[m, d] decoder rows"""
    threshold: Tensor
    """[m]"""
    activations: Tensor
    """[n, m]"""
    names: Tensor
    """[m] token of highest lift"""


def dense(code: SparseCode, chosen: Tensor, d_sae: int) -> Tensor:
    """[n, m] the activations of the features `chosen` [m]."""
    place = torch.full((d_sae,), len(chosen))
    place[chosen] = torch.arange(len(chosen))
    out = torch.zeros(len(code.values), len(chosen) + 1)
    return out.scatter_add_(1, place[code.indices], code.values)[:, :-1]


def thresholds(dictionary: Dictionary, activations: Tensor, chosen: Tensor) -> Tensor:
    """[m] what an activation must exceed: the feature's own threshold, or the LOW quantile of activations
    [n, m].
    """
    low = torch.stack([column[column != 0].abs().quantile(LOW) for column in activations.T])
    if isinstance(dictionary.selection, Threshold):
        own = dictionary.selection.threshold[chosen].float()
        return torch.where(own > 0, own, low)
    return low


def assign(a: Tensor, b: Tensor) -> Tensor:
    """[m] the row of b [m, d] for each row of a [m, d], with the least Σ‖a_i − b_π(i)‖²."""
    return torch.from_numpy(linear_sum_assignment(torch.cdist(a.double(), b.double()).square().numpy())[1])


def correlation(a: Tensor, b: Tensor) -> Tensor:
    """[m] Pearson correlation of the columns of a and b [n, m]."""
    a, b = a - a.mean(0), b - b.mean(0)
    return (a * b).sum(0) / (a.norm(dim=0) * b.norm(dim=0)).clamp_min(1e-12)


def first(layer: Layer, m: int) -> Layer:
    """Its m most firing features."""
    indices, rows, threshold, activations, names = layer
    return Layer(indices[:m], rows[:m], threshold[:m], activations[:, :m], names[:m])


class Step(NamedTuple):
    """The match of one layer's features with the next's."""

    to: Tensor
    """[m] places in the next layer"""
    together: Tensor
    """[m] correlation of the activations"""
    same_name: Tensor
    """[m] bool"""


def step(a: Layer, b: Layer, *, folded: bool = True) -> Step:
    to = assign(*(each.rows * each.threshold[:, None] if folded else each.rows for each in (a, b)))
    return Step(to, correlation(a.activations, b.activations[:, to]), a.names == b.names[to])


@torch.inference_mode()
def find(arguments: MatchArguments) -> Findings:
    inputs = load_inputs(arguments, at_least=2)
    checkpoints = sorted(inputs.checkpoints, key=lambda checkpoint: checkpoint.layer)
    layers = [checkpoint.layer for checkpoint in checkpoints]
    if len(set(layers)) < len(layers):
        raise StudyError(f"This study matches one dictionary a layer; these are of layers {layers}.")
    model = inputs.model
    found = own_passages(model, arguments)
    stream = read_stream(model, found, layers)
    taken, lifts = [], []
    for checkpoint in checkpoints:
        dictionary = checkpoint.dictionary
        code = encode(dictionary, stream.x[checkpoint.layer], stream.tokens)
        fired = firings(code, dictionary.d_sae)
        chosen = fired.argsort(descending=True)[: min(arguments.features, int((fired > 1).sum()))]
        names = names_on(code, stream.tokens, d_sae=dictionary.d_sae, vocab_size=model.vocab_size)
        activations = dense(code, chosen, dictionary.d_sae)
        theta = thresholds(dictionary, activations, chosen)
        taken.append(Layer(chosen, dictionary.W_dec[chosen].float(), theta, activations, names[chosen]))
        lifts.append(names)
    m = min(len(layer.indices) for layer in taken)
    if m < 2:
        raise StudyError("A dictionary has fewer than two features that fire on this text: give more text.")
    taken = [first(layer, m) for layer in taken]
    steps = [step(a, b) for a, b in pairwise(taken)]
    plain = [step(a, b, folded=False) for a, b in pairwise(taken)]
    draw = torch.Generator().manual_seed(arguments.seed)
    chance = [
        (correlation(a.activations, b.activations[:, drawn]), a.names == b.names[drawn])
        for a, b in pairwise(taken)
        for drawn in [torch.randperm(m, generator=draw)]
    ]
    together = torch.cat([each.together for each in steps])
    random = torch.cat([each for each, _ in chance])
    same = torch.cat([each.same_name for each in steps]).float()
    stays = mean_over((together >= PERSISTS).float())
    measured = mean_over(together)
    kept = mean_over(same)
    by_chance = float(torch.cat([each for _, each in chance]).float().mean())
    drift = mean_over(((together >= PERSISTS) & (same == 0)).float())
    figures = [
        figure(
            "correlation of matched activations",
            "correlation",
            measured,
            "Of the activations of the two features over the text, averaged over matched pairs.",
            control=float(random.mean()),
        ),
        figure(
            "the same without folding",
            "correlation",
            mean_over(torch.cat([each.together for each in plain])),
            "Matched on decoder rows as they are.",
            control=float(random.mean()),
        ),
        figure(
            "features that persist",
            "share",
            stays,
            f"Matched pairs whose activations correlate at {PERSISTS} or more.",
            control=float((random >= PERSISTS).float().mean()),
        ),
        figure(
            "names that persist",
            "share",
            kept,
            "Matched pairs that fire most on the same token.",
            control=by_chance,
        ),
        figure("features that drift", "share", drift, "Matched pairs that persist under another name."),
    ]
    cells = [
        FeatureNames(model, checkpoint, lift) for checkpoint, lift in zip(checkpoints, lifts, strict=True)
    ]
    answer = (
        f"Matched by their weights, features of successive dictionaries correlate at {measured.value:.2f} "
        f"(random pairs: {float(random.mean()):.2f}); {percent(stays.value)} persist, and "
        f"{percent(kept.value)} keep their name (random pairs: {percent(by_chance)})."
    )
    table = _by_step([source_of(each) for each in checkpoints], steps, plain)
    chart = _flow([source_of(each) for each in checkpoints], taken, steps, cells, arguments.shown)
    return Findings(model.id, answer, figures, [table], chart)


def _by_step(sources: Sequence[str], steps: Sequence[Step], plain: Sequence[Step]) -> StudyTable:
    """A row a pair of layers."""

    def share(mask: Tensor) -> Interval:
        return mean_over(mask.float())

    rows = []
    for (a, b), one, unfolded in zip(pairwise(sources), steps, plain, strict=True):
        persists = one.together >= PERSISTS
        parts = (persists & one.same_name, persists & ~one.same_name, ~persists)
        means = [float(each.together.mean()) for each in (one, unfolded)]
        rows.append([f"{a} → {b}", *means, *(share(part).value for part in parts)])
    return StudyTable(
        title="From layer to layer",
        columns=["layers", "correlation", "without folding", "persist", "drift", "fade"],
        rows=rows,
    )


def chain_lengths(steps: Sequence[Step]) -> list[Tensor]:
    """For each layer, [m] over how many more layers each feature persists."""
    lengths = [torch.zeros(len(steps[-1].to), dtype=torch.long)]
    for one in reversed(steps):
        lengths.insert(0, torch.where(one.together >= PERSISTS, 1 + lengths[0][one.to], 0))
    return lengths


def _flow(
    sources: Sequence[str],
    taken: Sequence[Layer],
    steps: Sequence[Step],
    cells: Sequence[FeatureNames],
    shown: int,
) -> StudyChart:
    """The features that persist longest from the first layer on, and from each layer where others appear."""
    lasts = chain_lengths(steps)
    current = lasts[0].argsort(descending=True, stable=True)[:shown].tolist()
    arrived = [set(one.to[one.together >= PERSISTS].tolist()) for one in steps]
    nodes, links = [], []
    for column, layer in enumerate(taken):
        names: list[FeatureCell] = cells[column](layer.indices[current].tolist())
        for place, cell in zip(current, names, strict=True):
            nodes.append(ChartNode(id=f"{column}.{place}", label=cell.text, column=column, feature=cell.id))
        if column == len(steps):
            break
        one = steps[column]
        onward = [place for place in current if float(one.together[place]) >= PERSISTS]
        for place in onward:
            to = int(one.to[place])
            weight = round(float(one.together[place]), 3)
            links.append(ChartLink(source=f"{column}.{place}", target=f"{column + 1}.{to}", weight=weight))
        reached = [int(one.to[place]) for place in onward]
        new = lasts[column + 1].argsort(descending=True, stable=True).tolist()
        current = reached + [place for place in new if place not in arrived[column]][: shown - len(reached)]
    return StudyChart(
        kind="flow",
        title="Features by layer: a line where matched activations correlate at 0.5; others fade or appear",
        categories=list(sources),
        nodes=nodes,
        links=links,
    )


STUDY = Study(
    "match",
    "Which features persist from layer to layer, and what becomes of their names?",
    "Balagansky, Maksimov and Gavrilov 2024, Mechanistic permutability: match features across layers (arXiv "
    "2410.07656)",
    "a random one-to-one match of the same features.",
    "over matched pairs of all layers together (percentile bootstrap).",
    MatchArguments,
    find,
)
