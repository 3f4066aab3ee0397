"""Which features recur when a dictionary is trained again with another seed, and whether those that do not
lie in a subspace that does.

A feature recurs in another run where the two are each other's nearest live feature, by the mean of the
cosines of their encoder and decoder rows, and that mean is at least 0.7 (the threshold of Paulo and Belrose
2025, who match by the Hungarian algorithm; each other's nearest is stricter). The subspace of a set of
features is spanned by the first principal directions of what they wrote, √(Σ z²) · d; the overlap of two
subspaces of rank r is the mean squared cosine of their principal angles, ‖UᵀV‖² / r.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lexiscope.anchors import random_directions
from lexiscope.metrics import weighted_share
from lexiscope.records import ChartSeries, Recurrence, StudyChart, StudyTable
from studies.feature_matching import Run, live_run, match, overlap, recurrence, subspace, whitening
from studies.inputs import Inputs, load_inputs, own_passages, read_stream, source_of
from studies.intervals import Interval, figure, mean_over, percent
from studies.names import FeatureNames
from studies.study import Arguments, Findings, Study, StudyError, argument

FEWEST = 32
"""unstable features that a subspace can be fitted on"""


@dataclass(frozen=True, kw_only=True)
class SeedArguments(Arguments):
    threshold: float = argument("least mean cosine of a feature that recurs", 0.7, least=0)
    rank: int = argument("dimensions of the subspaces", 16, least=1)
    shown: int = argument("features in each table", 20, least=1)


class Overlap(NamedTuple):
    """Of the subspaces of unstable features, averaged over pairs of seeds."""

    measured: float
    control: float
    """the same where every unstable direction is a random one of the residual stream's covariance"""


def overlaps(
    runs: Sequence[Run], stable: Sequence[Tensor], rank: int, covariance: Tensor, transform: Tensor, seed: int
) -> Overlap | None:
    """Overlap of what the unstable features wrote, with rows seen through `transform` [d, d]; None where a
    run has too few of them.
    """
    weak = [share == 0 for share in stable]
    if min(int(each.sum()) for each in weak) < max(FEWEST, rank):
        return None
    bases, control = [], []
    for place, (run, chosen) in enumerate(zip(runs, weak, strict=True)):
        drawn = F.normalize(random_directions(covariance, int(chosen.sum()), seed=seed + place), dim=-1)
        bases.append(subspace(run.decoder[chosen] @ transform, run.energy[chosen], rank))
        control.append(subspace(drawn @ transform, run.energy[chosen], rank))
    pairs = [(a, b) for a in range(len(runs)) for b in range(a)]
    means = [sum(overlap(some[a], some[b]) for a, b in pairs) / len(pairs) for some in (bases, control)]
    return Overlap(*means)


def _names(runs: Sequence[Run], seed: int) -> tuple[Interval, float]:
    """The share of features whose match in another seed has the same name, and the same with the names of
    the other seed permuted.
    """
    same, permuted, draw = [], [], torch.Generator().manual_seed(seed)
    for a, b in permutations(runs, 2):
        to = match(a, b).nearest
        same.append((b.names[to] == a.names).float())
        shuffled = b.names[torch.randperm(len(b.names), generator=draw)]
        permuted.append((shuffled[to] == a.names).float())
    return mean_over(torch.cat(same), seed=seed), float(torch.cat(permuted).mean())


def _by_chance(runs: Sequence[Run], covariance: Tensor, threshold: float, seed: int) -> tuple[float, float]:
    """Recurrence and mean best cosine of random directions of the stream's covariance, as many as the
    features, in the other run.
    """
    shares, cosines = [], []
    for place, (a, b) in enumerate(permutations(runs, 2)):
        drawn = F.normalize(random_directions(covariance, len(a.indices), seed=seed + place), dim=-1)
        matches = match(a._replace(encoder=drawn, decoder=drawn), b)
        shares.append((matches.mutual & (matches.similarity >= threshold)).float().mean())
        cosines.append(matches.similarity.mean())
    return float(torch.stack(shares).mean()), float(torch.stack(cosines).mean())


@torch.inference_mode()
def find(arguments: SeedArguments) -> Findings:
    inputs = load_inputs(arguments, at_least=2, same_layer=True)
    _check_seeds(inputs)
    model, layer = inputs.model, inputs.layers[0]
    if not 0 < arguments.rank <= model.d_model // 2:
        raise StudyError(f"--rank {arguments.rank} is more than half of the width, {model.d_model}.")
    stream = read_stream(
        model,
        own_passages(model, arguments),
        [layer],
    )
    x = stream.x[layer]
    covariance = torch.cov(x.T)
    runs = [live_run(each.dictionary, x, stream.tokens, model.vocab_size) for each in inputs.checkpoints]
    if min(len(run.indices) for run in runs) < 2:
        raise StudyError("A dictionary has fewer than two features that fire on this text: give more text.")
    stable = recurrence(runs, arguments.threshold)
    every = torch.cat(stable)
    recurs = mean_over(every, seed=arguments.seed)
    best = mean_over(torch.cat([match(a, b).similarity for a, b in permutations(runs, 2)]))
    chance, chance_best = _by_chance(runs, covariance, arguments.threshold, arguments.seed)
    names, permuted = _names(runs, arguments.seed)
    energy = torch.cat([run.energy for run in runs])
    used = torch.cat([run.firings for run in runs])
    spaces = [
        overlaps(runs, stable, arguments.rank, covariance, transform, arguments.seed)
        for transform in (torch.eye(model.d_model), whitening(covariance))
    ]
    figures = [
        figure(
            "features that recur",
            "share",
            recurs,
            f"Live features with a mutual match of mean cosine {arguments.threshold:g} or more, averaged "
            "over the other seeds.",
            control=chance,
        ),
        figure(
            "mean best cosine",
            "cosine",
            best,
            "Of a live feature to its nearest in another seed, encoder and decoder averaged.",
            control=chance_best,
        ),
        figure(
            "names that recur",
            "share",
            names,
            "Live features whose nearest in another seed fires most on the same token.",
            control=permuted,
        ),
        figure(
            "energy of features that recur",
            "share",
            weighted_share(every, energy),
            "Σ z² ‖d‖² of features, weighted by the share of the other seeds in which they recur.",
        ),
        figure(
            "firings of features that recur",
            "share",
            weighted_share(every, used),
            "Firings, weighted in the same way.",
        ),
    ]
    for space, where in zip(spaces, ("", ", whitened"), strict=True):
        if space is not None:
            meaning = (
                f"Mean squared cosine of the principal angles of two seeds' subspaces of rank "
                f"{arguments.rank}, spanned by what features that recur in no other seed wrote"
            )
            more = ", where the stream's covariance is 1." if where else "."
            figures.append(
                figure(
                    f"overlap of the unstable subspaces{where}",
                    "share",
                    space.measured,
                    meaning + more,
                    control=space.control,
                )
            )
    return Findings(
        model.id,
        _answer(recurs, chance, names, permuted, spaces[1]),
        figures,
        [_table(inputs, runs[0], stable[0], arguments.shown)],
        _chart(runs, stable),
        recurrence_of(inputs, runs[0], stable[0]),
    )


def recurrence_of(inputs: Inputs, run: Run, stable: Tensor) -> Recurrence:
    """The first dictionary's live features by the number of other seeds in which they recur; stable [m]
    shares.
    """
    first, others = inputs.checkpoints[0], len(inputs.checkpoints) - 1
    times = (stable * others).round().long()
    return Recurrence(
        dictionary=f"{inputs.model.id}/{source_of(first)}",
        identity=first.dictionary.identity,
        recur_in=[run.indices[times == n].tolist() for n in range(others + 1)],
    )


def _check_seeds(inputs: Inputs) -> None:
    """Refuse what does not differ by its seed alone."""
    if len({each.dictionary.identity for each in inputs.checkpoints}) < len(inputs.checkpoints):
        raise StudyError("Two of the dictionaries have the same weights: there is no other seed to compare.")
    widths = sorted({each.dictionary.d_sae for each in inputs.checkpoints})
    if len(widths) > 1:
        raise StudyError(f"Seeds of one recipe have one width; these dictionaries have {widths} features.")
    kinds = sorted({each.architecture for each in inputs.checkpoints})
    if len(kinds) > 1:
        raise StudyError(f"Seeds of one recipe have one architecture; these are {', '.join(kinds)}.")


def _answer(recurs: Interval, chance: float, names: Interval, permuted: float, space: Overlap | None) -> str:
    said = (
        f"{percent(recurs.value)} of the live features recur in another seed (random directions: "
        f"{percent(chance)}); {percent(names.value)} keep their name (permuted names: {percent(permuted)})."
    )
    if space is None:
        return f"{said} Too few features are unstable to ask what subspace they span."
    return (
        f"{said} In whitened space, the subspaces that the unstable ones write into overlap between seeds to "
        f"{percent(space.measured)} (random directions of the stream's covariance: {percent(space.control)})."
    )


def _table(inputs: Inputs, run: Run, stable: Tensor, shown: int) -> StudyTable:
    """The features of the first run with the most energy, with their stability."""
    most = run.energy.argsort(descending=True)[:shown]
    lift = torch.full((inputs.checkpoints[0].dictionary.d_sae,), -1)
    lift[run.indices] = run.names
    cells = FeatureNames(inputs.model, inputs.checkpoints[0], lift)(run.indices[most].tolist())
    share = run.energy[most] / run.energy.sum()
    rows = zip(cells, stable[most].tolist(), share.tolist(), run.firings[most].tolist(), strict=True)
    return StudyTable(
        title=f"Features of {source_of(inputs.checkpoints[0])} with the most energy",
        columns=["feature", "recurs in (share of the other seeds)", "share of the energy", "firings"],
        rows=[list(row) for row in rows],
    )


def _chart(runs: Sequence[Run], stable: Sequence[Tensor]) -> StudyChart:
    """Recurrence by how often features fire, in tenths of the live features."""
    order = torch.cat([run.firings for run in runs]).argsort()
    parts = [part for part in torch.cat(list(stable))[order].tensor_split(10) if len(part)]
    points = []
    for place, part in enumerate(parts, 1):
        interval = mean_over(part)
        points.append(interval.at(place))
    return StudyChart(
        kind="lines",
        title="Features that recur, by how often they fire (tenths of the live features, rarest first)",
        x_label="tenth of the live features, by firings",
        y_label="share",
        series=[ChartSeries(name="recurs", points=points)],
    )


STUDY = Study(
    "seeds",
    "Which features recur when the dictionary is trained again with another seed?",
    "Paulo and Belrose 2025, Sparse autoencoders trained on the same data learn different features (arXiv "
    "2501.16615); unstable features and their subspaces after a later study of the same question",
    "random directions of the residual stream's covariance in place of features, and names permuted.",
    "over features (percentile bootstrap); the seeds themselves are few, and their spread is not in it.",
    SeedArguments,
    find,
)
