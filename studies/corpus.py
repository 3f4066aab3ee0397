"""Passages of a corpus grouped and scored by their features: clusters, difficulty, quality.

Features are pooled over a passage by their largest activation, as log(1 + z). Clusters: spherical k-means
of that. Difficulty: the model's own cross-entropy of the passage, predicted by ridge regression. Quality: a
probe that tells passages from the same passages with their tokens shuffled. Predictions are for passages that
fitted nothing. The source engineers data for reinforcement learning with clusters, a regression on difficulty
and a probe on quality; here all three have a truth to be compared with: the file, the loss, the shuffling.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lexiscope.files import replace_file
from lexiscope.language_model import LanguageModel
from lexiscope.records import ChartPoint, ChartSeries, StudyChart, StudyTable
from lexiscope.records.study import Cell
from studies.inputs import encode, load_inputs, read_passages, read_stream
from studies.intervals import figure, mean_over, percent
from studies.interventions import losses, unchanged
from studies.names import FeatureNames, names_on
from studies.regression import explained, ridge
from studies.study import Arguments, Findings, Study, StudyError, argument
from studies.two_texts import FEWEST, correct, fit_probe, mean_state, pooled, token_counts

ROUNDS, STARTS = 30, 4
"""of k-means"""
KEPT = 512
"""directions that inputs of a regression are reduced to"""


@dataclass(frozen=True, kw_only=True)
class CorpusArguments(Arguments):
    clusters: int = argument("clusters", 8, least=2)
    export: Path | None = argument("a .jsonl file for the scores of every passage", None)  # noqa: RUF009
    shown: int = argument("features that name a cluster", 5, least=1)


def k_means(rows: Tensor, k: int, *, seed: int) -> Tensor:
    """[n] the cluster of each of unit rows [n, m]: spherical k-means, the start of greatest total cosine."""
    draw, best, most = torch.Generator().manual_seed(seed), torch.zeros(0), -1.0
    for _ in range(STARTS):
        centres = rows[torch.randperm(len(rows), generator=draw)[:k]]
        for _ in range(ROUNDS):
            near = (rows @ centres.T).max(1)
            sums = torch.zeros_like(centres).index_add_(0, near.indices, rows)
            empty = sums.norm(dim=1) == 0
            sums[empty] = rows[near.values.argsort()[: int(empty.sum())]]
            centres = F.normalize(sums, dim=1)
        near = (rows @ centres.T).max(1)
        if float(near.values.sum()) > most:
            best, most = near.indices, float(near.values.sum())
    return best


def purity(cluster: Tensor, source: Tensor) -> Tensor:
    """[n] 1.0 where a passage is of the source that most of its cluster are of; both [n]."""
    table = torch.zeros(int(cluster.max()) + 1, int(source.max()) + 1)
    table.index_put_((cluster, source), torch.ones(len(cluster)), accumulate=True)
    return (table.argmax(1)[cluster] == source).float()


def reduced(inputs: Tensor) -> Tensor:
    """[n, ≤ KEPT] principal coordinates of inputs [n, m], a quarter as many as rows at most; they
    need no labels, so they are of all rows.
    """
    centred = inputs - inputs.mean(0)
    u, s, _ = torch.linalg.svd(centred, full_matrices=False)
    return (u * s)[:, : min(KEPT, len(inputs) // 4)]


class Passages(NamedTuple):
    ids: list[np.ndarray]
    source: Tensor
    """[n] which file"""
    judged: Tensor
    """[n] bool; the others fit"""


def read_sources(model: LanguageModel, arguments: CorpusArguments) -> Passages:
    """Passages of every file, as many of each. Raises StudyError for fewer than two files, or too few."""
    if len(arguments.text) < 2:
        raise StudyError("Clusters are compared with where passages come from: give two --text or more.")
    each = [
        read_passages(model, [file], tokens=arguments.tokens, length=arguments.length, field=arguments.field)
        for file in arguments.text
    ]
    n = min(map(len, each))
    if n < FEWEST:
        raise StudyError(
            f"Each file must give {FEWEST} passages; the shortest gave {n} of {arguments.length} tokens."
        )
    ids = [passage for some in each for passage in some[:n]]
    source = torch.arange(len(each)).repeat_interleave(n)
    return Passages(ids, source, torch.arange(len(ids)) % 2 == 1)


def find(arguments: CorpusArguments) -> Findings:
    inputs = load_inputs(arguments)
    if len(inputs.checkpoints) > 1:
        raise StudyError("This study looks at one dictionary; run it once for each.")
    model, checkpoint = inputs.model, inputs.checkpoints[0]
    layer, dictionary = checkpoint.layer, checkpoint.dictionary
    own = read_sources(model, arguments)
    n, judged = len(own.ids), own.judged
    if n < 2 * arguments.clusters:
        raise StudyError(f"{n} passages cannot make {arguments.clusters} clusters: give more text.")
    draw = np.random.default_rng(arguments.seed)
    broken = [np.concatenate([ids[:1], draw.permutation(ids[1:])]) for ids in own.ids]
    views, cells, inside = [], None, torch.zeros(0)
    for ids in (own.ids, broken):
        stream = read_stream(model, ids, [layer])
        code = encode(dictionary, stream.x[layer], stream.tokens)
        views.append(
            {
                "features": pooled(code, stream.passage, n, dictionary.d_sae).log1p(),
                "x": mean_state(stream.x[layer], stream.passage, n),
                "token counts": token_counts(stream.tokens, stream.passage, n, model.vocab_size),
            }
        )
        if cells is None:
            names = names_on(code, stream.tokens, d_sae=dictionary.d_sae, vocab_size=model.vocab_size)
            cells, inside = FeatureNames(model, checkpoint, names), (views[0]["features"] > 0).float()
    loss = losses(model, layer, own.ids, {"": unchanged})[""][:, None]
    label = torch.cat([torch.ones(n), torch.zeros(n)])
    fits = torch.cat([~judged, ~judged])
    cluster = {
        name: k_means(F.normalize(view, dim=1), arguments.clusters, seed=arguments.seed)
        for name, view in views[0].items()
    }
    mixed = torch.randperm(n, generator=torch.Generator().manual_seed(arguments.seed))
    figures, difficulty, quality, guess = [], {}, {}, {}
    for name, view in views[0].items():
        low = reduced(view)
        fit, no_fit = ridge(low[~judged], loss[~judged]), ridge(low[~judged], loss[mixed][~judged])
        guess[name] = fit(low)[:, 0]
        group = torch.arange(int(judged.sum()))
        mean = loss[~judged].mean(0)
        difficulty[name] = explained(loss[judged], fit(low[judged]), mean, group)
        by_chance = explained(loss[judged], no_fit(low[judged]), mean, group)
        both = reduced(torch.cat([view, views[1][name]]))
        probe = fit_probe(both[fits], label[fits])
        quality[name] = mean_over(correct(probe, both[~fits], label[~fits]), torch.arange(n).repeat(2)[~fits])
        swapped = label[fits][torch.randperm(int(fits.sum()), generator=torch.Generator().manual_seed(1))]
        chance = mean_over(correct(fit_probe(both[fits], swapped), both[~fits], label[~fits]))
        pure = mean_over(purity(cluster[name], own.source))
        figures += [
            figure(
                f"clusters of {name}: purity",
                "share",
                pure,
                "Passages that are of the file that most of their cluster are of.",
                control=mean_over(purity(cluster[name][mixed], own.source)),
            ),
            figure(
                f"difficulty by {name}",
                "share",
                difficulty[name],
                "Of the variance of the model's cross-entropy over passages, what a regression explains.",
                control=by_chance,
            ),
            figure(
                f"quality by {name}",
                "share",
                quality[name],
                "Passages and shuffled passages that a probe tells apart.",
                control=chance,
            ),
        ]
    by = {each.label: each for each in figures}
    grouped = by["clusters of features: purity"]
    answer = (
        f"{arguments.clusters} clusters of features agree with the files in {percent(grouped.value)} of {n} "
        f"passages (permuted: {percent(grouped.control or 0)}; token counts: "
        f"{percent(by['clusters of token counts: purity'].value)}). Features explain "
        f"{percent(difficulty['features'].value)} of the variance of the model's loss (x: "
        f"{percent(difficulty['x'].value)}; token counts: {percent(difficulty['token counts'].value)}) and "
        f"tell {percent(quality['features'].value)} of passages from shuffled ones (x: "
        f"{percent(quality['x'].value)}; token counts: {percent(quality['token counts'].value)})."
    )
    if arguments.export is not None:
        write_scores(arguments.export, model, own, cluster["features"], guess["features"], loss[:, 0])
    assert cells is not None
    table, chart = _by_cluster(own, cluster["features"], inside, loss[:, 0], cells, arguments)
    return Findings(model.id, answer, figures, [table], chart)


def write_scores(
    file: Path, model: LanguageModel, own: Passages, cluster: Tensor, guess: Tensor, loss: Tensor
) -> None:
    """One JSON object a passage: its file, cluster, loss, predicted difficulty (of passages that fitted the
    regression too) and text.
    """
    with replace_file(file) as partial, partial.open("w", encoding="utf-8") as out:
        for place, ids in enumerate(own.ids):
            row = {
                "source": int(own.source[place]),
                "cluster": int(cluster[place]),
                "loss": round(float(loss[place]), 4),
                "difficulty": round(float(guess[place]), 4),
                "fitted": not bool(own.judged[place]),
                "text": model.text(ids[1:].tolist()),
            }
            out.write(json.dumps(row, ensure_ascii=False) + "\n")


def _by_cluster(
    own: Passages,
    cluster: Tensor,
    active: Tensor,
    loss: Tensor,
    cells: FeatureNames,
    arguments: CorpusArguments,
) -> tuple[StudyTable, StudyChart]:
    """Each cluster with the features that are in more of its passages than of the others, and its files."""
    rows: list[list[Cell]] = []
    shares: list[list[float]] = []
    labels = []
    for place in range(arguments.clusters):
        inside = cluster == place
        if not inside.any() or inside.all():
            continue
        top = (active[inside].mean(0) - active[~inside].mean(0)).argsort(descending=True)[: arguments.shown]
        named = ", ".join(cell.text for cell in cells(top.tolist()))
        counts = torch.bincount(own.source[inside], minlength=len(arguments.text)).float()
        shares.append((counts / counts.sum()).tolist())
        labels.append(named)
        rows.append([named, int(inside.sum()), float(loss[inside].mean()), *shares[-1]])
    files = [Path(file).name for file in arguments.text]
    table = StudyTable(
        title="Clusters by the features that set them apart, with the share of each file",
        columns=["features", "passages", "cross-entropy", *files],
        rows=rows,
    )
    chart = StudyChart(
        kind="bars",
        title="Clusters of features, and which file their passages are of",
        x_label="share of the cluster's passages",
        categories=labels,
        series=[
            ChartSeries(
                name=file, points=[ChartPoint(x=place, y=share[of]) for place, share in enumerate(shares)]
            )
            for of, file in enumerate(files)
        ],
    )
    return table, chart


STUDY = Study(
    "corpus",
    "Do features group the passages of a corpus, and tell how hard and how sound they are?",
    "Jing et al. 2026, Guiding LLM post-training data engineering with model internals from sparse "
    "autoencoders (SaeRL, arXiv 2605.27354)",
    "the same clusters, losses or labels permuted over passages.",
    "over passages; those that fitted nothing where something is fitted (percentile bootstrap).",
    CorpusArguments,
    find,
)
