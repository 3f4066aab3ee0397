"""When named features appear while a language model is trained: one dictionary read on its checkpoints.

The checkpoints are folders of one model, in the order of training; the last is the one that the dictionary
was trained on. Or there is a dictionary for each checkpoint, in the same order, with features that keep their
number (trained one from the other, as in SAE-Track). A name has appeared at the first checkpoint from which
on the feature's token of highest lift is the one that it has at the last. Formation is the source's progress
measure: the mean weighted Jaccard similarity, Σ min / Σ max, of the codes at the positions where the feature
is strongest at the last checkpoint, less that of random positions.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from lexiscope.checkpoint import Checkpoint
from lexiscope.dictionary import Dictionary
from lexiscope.language_model import LanguageModel, load_language_model
from lexiscope.records import ChartSeries, StudyChart, StudyTable
from lexiscope.records.study import Cell
from lexiscope.sparse_code import SparseCode
from studies.inputs import Stream, encode, firings, load_inputs, ordinary, own_passages, read_stream
from studies.intervals import Interval, figure, mean_over, percent, ratio_over
from studies.match import correlation, dense
from studies.names import FeatureNames, names_on
from studies.study import Arguments, Findings, Study, StudyError, argument

STRONGEST = 25
"""positions of a feature that formation is measured at, as in the source's code"""
OFTEN = 10
"""firings at the last checkpoint of a feature that is followed"""


@dataclass(frozen=True, kw_only=True)
class TrackArguments(Arguments):
    checkpoint: tuple[Path, ...] = argument("a folder of the model during its training, the earliest first")
    features: int = argument("features that are followed: those that fire most", 500, least=2)
    formed: int = argument("of those, features whose formation is measured", 100, least=1)
    shown: int = argument("names in the table, of each checkpoint", 8, least=1)


class Reading(NamedTuple):
    """One checkpoint on the text."""

    names: Tensor
    """[m] token of highest lift of each followed feature, −1 where it is silent"""
    activations: Tensor
    """[n, m]"""
    code: SparseCode
    explained: Interval
    """share of the stream's variance that the dictionary explains"""


def weighted_jaccard(rows: Tensor) -> Tensor:
    """[] the mean of Σ min / Σ max over pairs of different rows [n, m], none below 0."""
    low = torch.minimum(rows[:, None], rows[None]).sum(-1)
    high = torch.maximum(rows[:, None], rows[None]).sum(-1)
    pairs = ~torch.eye(len(rows), dtype=torch.bool)
    return (low / high.clamp_min(1e-8))[pairs].mean()


def code_at(code: SparseCode, places: Tensor, d_sae: int) -> Tensor:
    """[n, m] codes at some positions [n], over the features that any of them has; by magnitude."""
    own = SparseCode(code.values[places].abs(), code.indices[places])
    return dense(own, own.indices[own.values != 0].unique(), d_sae)


def appeared(names: Tensor) -> Tensor:
    """[m] the first of t checkpoints from which on a name is what it is at the last; names [t, m]."""
    same = (names == names[-1]).flip(0).cumprod(0)
    return len(names) - same.sum(0)


def load_checkpoints(last: LanguageModel, folders: Sequence[Path]) -> list[LanguageModel]:
    """The model at each checkpoint. Raises StudyError: fewer than two, or of another vocabulary or shape."""
    if len(folders) < 2:
        raise StudyError(f"This study needs 2 checkpoints of a model or more; {len(folders)} given.")
    found = [load_language_model(str(folder)) for folder in folders]
    for folder, model in zip(folders, found, strict=True):
        shape = (model.d_model, model.n_layers, model.vocab_size)
        if shape != (last.d_model, last.n_layers, last.vocab_size):
            raise StudyError(f"{folder} is no checkpoint of {last.id}: another width, depth or vocabulary.")
        if model.vocabulary.raw != last.vocabulary.raw:
            raise StudyError(f"{folder} is no checkpoint of {last.id}: its tokens are others.")
    return found


def seen_tokens(folders: Sequence[Path]) -> list[float] | None:
    """Millions of tokens that each checkpoint was trained on, where every folder's training.json has it."""
    try:
        files = [json.loads((folder / "training.json").read_text(encoding="utf-8")) for folder in folders]
        return [float(each["tokens_seen"]) / 1e6 for each in files]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def read_checkpoint(
    dictionary: Dictionary, stream: Stream, layer: int, chosen: Tensor, vocab: int
) -> Reading:
    x = stream.x[layer]
    code = encode(dictionary, x, stream.tokens)
    rest = (x - dictionary.decode(code, x, stream.tokens)).square().sum(-1)
    whole = (x - x.mean(0)).square().sum(-1)
    left = ratio_over(rest, whole, stream.passage)
    names = names_on(code, stream.tokens, d_sae=dictionary.d_sae, vocab_size=vocab)[chosen]
    explained = Interval(1 - left.value, 1 - left.high, 1 - left.low)
    return Reading(names, dense(code, chosen, dictionary.d_sae), code, explained)


@torch.inference_mode()
def find(arguments: TrackArguments) -> Findings:
    inputs = load_inputs(arguments, same_layer=True)
    last, layer = inputs.model, inputs.layers[0]
    models = load_checkpoints(last, arguments.checkpoint)
    owned: list[Checkpoint] = inputs.checkpoints
    if len(owned) not in (1, len(models)):
        raise StudyError(
            f"Give one dictionary, or one for each of the {len(models)} checkpoints; {len(owned)} were given."
        )
    owned = owned if len(owned) > 1 else owned * len(models)
    passages = own_passages(last, arguments)
    streams = [read_stream(model, passages, [layer], sinks=True) for model in models]
    kept = torch.stack([ordinary(stream) for stream in streams]).all(0)
    streams = [stream.where(kept) for stream in streams]
    final = owned[-1].dictionary
    code = encode(final, streams[-1].x[layer], streams[-1].tokens)
    fired = firings(code, final.d_sae)
    chosen = fired.argsort(descending=True)[: min(arguments.features, int((fired >= OFTEN).sum()))]
    if len(chosen) < 2:
        raise StudyError(f"Fewer than two features fire {OFTEN} times on this text: give more.")
    readings = [
        read_checkpoint(checkpoint.dictionary, stream, layer, chosen, last.vocab_size)
        for checkpoint, stream in zip(owned, streams, strict=True)
    ]
    names = torch.stack([reading.names for reading in readings])
    first = appeared(names)
    draw = torch.Generator().manual_seed(arguments.seed)
    mixed = names[-1][torch.randperm(len(chosen), generator=draw)]
    same = [mean_over((reading.names == names[-1]).float()) for reading in readings]
    by_chance = [mean_over((reading.names == mixed).float()) for reading in readings]
    alike = [mean_over(correlation(each.activations, readings[-1].activations)) for each in readings]
    formed = [_formation(each, readings[-1], arguments, final.d_sae) for each in readings]
    there = [mean_over((first <= at).float()) for at in range(len(readings))]
    half = next(at for at, each in enumerate(there) if each.value >= 0.5)
    labels = [folder.name for folder in arguments.checkpoint]
    figures = [
        figure(
            f"names that are there, {labels[at]}",
            "share",
            there[at],
            f"Of {len(chosen)} features, those that have their last name here and from here on.",
            control=by_chance[at],
        )
        for at in range(len(readings) - 1)
    ]
    figures += [
        figure(
            "same name at the first checkpoint",
            "share",
            same[0],
            "Features that fire most on the same token at the first checkpoint as at the last.",
            control=by_chance[0],
        ),
        figure(
            "correlation with the last, at the first",
            "correlation",
            alike[0],
            "Of a feature's activations over the text, averaged over features.",
        ),
        *(
            figure(
                f"variance explained, {labels[at]}",
                "share",
                readings[at].explained,
                "By the dictionary, of the stream's variance at that checkpoint.",
            )
            for at in (0, -1)
        ),
        *(
            figure(
                f"formation, {labels[at]}",
                "number",
                formed[at],
                "Weighted Jaccard similarity of the codes where a feature is strongest at the end, less that "
                "of random positions.",
                control=0.0,
            )
            for at in (0, -1)
        ),
    ]
    answer = (
        f"{percent(there[0].value)} of {len(chosen)} features have their name from the first of "
        f"{len(models)} checkpoints on (names permuted: {percent(by_chance[0].value)}), and half of them "
        f"from {labels[half]} on. The dictionary explains {percent(readings[0].explained.value)} of the "
        f"first checkpoint's variance and {percent(readings[-1].explained.value)} of the last's; activations "
        f"correlate at {alike[0].value:.2f} between the two."
    )
    whole = names_on(code, streams[-1].tokens, d_sae=final.d_sae, vocab_size=last.vocab_size)
    cells = FeatureNames(last, owned[-1], whole)
    rows: list[list[Cell]] = [
        [labels[at], int((first == at).sum()), cell, int(fired[feature])]
        for at in range(len(readings))
        for some in [chosen[first == at][: arguments.shown].tolist()]
        for feature, cell in zip(some, cells(some), strict=True)
    ]
    table = StudyTable(
        title="Names by the checkpoint from which on they are there (features that fire most)",
        columns=["checkpoint", "names", "feature", "firings"],
        rows=rows,
    )
    steps = seen_tokens(arguments.checkpoint)
    x = steps or [float(at + 1) for at in range(len(readings))]
    lines = {
        "names that are there": there,
        "same name, permuted": by_chance,
        "correlation with the last": alike,
        "variance explained": [reading.explained for reading in readings],
        "formation": formed,
    }
    chart = StudyChart(
        kind="lines",
        title="The dictionary of the last checkpoint, read on the model during its training",
        x_label="millions of tokens seen" if steps else "checkpoint",
        y_label="share",
        series=[
            ChartSeries(
                name=name,
                points=[each.at(at) for at, each in zip(x, found, strict=True)],
                control="permuted" in name,
            )
            for name, found in lines.items()
        ],
    )
    return Findings(last.id, answer, figures, [table], chart)


def _formation(reading: Reading, last: Reading, arguments: TrackArguments, d_sae: int) -> Interval:
    """Over features: similarity of the codes at each one's strongest positions, less that of random ones."""
    draw = torch.Generator().manual_seed(arguments.seed)
    n = len(reading.activations)
    drawn = torch.randperm(n, generator=draw)[: 4 * STRONGEST]
    usual = weighted_jaccard(code_at(reading.code, drawn, d_sae))
    found = []
    for place in range(min(arguments.formed, last.activations.shape[1])):
        own = last.activations[:, place].abs()
        top = own.argsort(descending=True)[:STRONGEST]
        fires = top[own[top] > 0]
        if len(fires) > 1:
            found.append(weighted_jaccard(code_at(reading.code, fires, d_sae)) - usual)
    return mean_over(torch.stack(found))


STUDY = Study(
    "track",
    "When do named features appear while a language model is trained?",
    "Xu et al. 2024, Tracking the feature dynamics in LLM training (SAE-Track, arXiv 2412.17626), with code",
    "the last checkpoint's names permuted over the features; random positions.",
    "over features, or passages where variance is explained (percentile bootstrap).",
    TrackArguments,
    find,
)
