"""`lexiscope name`: dictionaries of one model in; an index of named features and a table of the names'
evidence out.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor

import indexer
from lexiscope.anchors import nearest_tokens, random_directions
from lexiscope.checkpoint import Checkpoint, load_checkpoint
from lexiscope.errors import LexiscopeError
from lexiscope.language_model import LanguageModel, load_language_model
from lexiscope.measures import DICTIONARY, as_text, placed
from lexiscope.records import DictionaryPage, FeatureRecord, Filters, Histogram, measured_values
from lexiscope.settings import Settings
from lexiscope.text import batches, passages
from store import Store

SAMPLE = 2048
"""Features, and random directions, whose cosine to every row of raw W_E is taken."""
CANDIDATES, SHOWN, WRONG = 100, 20, 5
"""Features of large shares read; how many of them are shown, one a word; features without a name shown."""
HEADINGS = ("feature", "verdict", "fires", "share (95 %)", "chance", "firings", "nearest anchor", "cosine")


class NamingRequest(NamedTuple):
    """The arguments of `lexiscope name`, beside dictionaries and text."""

    model: str | None
    model_id: str | None
    layer: int | None
    set_name: str | None
    anchors: str | None
    """None: a dictionary's own, else the mean state by current token"""
    tokens: int
    length: int
    ablate: int
    """contexts in which each live feature is ablated"""


class AgainstEmbedding(NamedTuple):
    """Mean cosine to the nearest row of raw W_E, which is another claim than the cosine to an anchor."""

    features: float
    random: float
    """the same of random directions with the layer's covariance"""


def name_dictionaries(
    paths: Sequence[Path],
    sources: Sequence[str],
    request: NamingRequest,
    *,
    settings: Settings,
    console: Console,
) -> None:
    """Index the dictionaries over the text, publish, and show a table a dictionary."""
    checkpoints = [
        load_checkpoint(path, anchors=request.anchors is None, layer=request.layer, set_name=request.set_name)
        for path in paths
    ]
    models = {request.model or checkpoint.model for checkpoint in checkpoints}
    if "" in models:
        silent = next(checkpoint.path for checkpoint in checkpoints if not checkpoint.model)
        raise LexiscopeError(
            f"{silent} does not record which language model it was trained on; give it with --model."
        )
    if len(models) > 1:
        raise LexiscopeError(
            f"These dictionaries are of different models ({', '.join(sorted(models))}): name those of one "
            "model at a time."
        )
    own = {
        str(checkpoint.details["model_id"]) for checkpoint in checkpoints if "model_id" in checkpoint.details
    }
    model = load_language_model(
        models.pop(), model_id=request.model_id or (own.pop() if len(own) == 1 else None)
    )
    wanted = indexer.IndexRequest(
        tokens=request.tokens,
        length=request.length,
        ablate=request.ablate,
        anchors=request.anchors or "current",
    )
    indexer.index([(model, checkpoints)], sources, settings=settings, console=console, request=wanted)
    store = Store(settings)
    try:
        for checkpoint in checkpoints:
            source = f"{checkpoint.layer}-{checkpoint.set_name}"
            page = store.dictionary_page(model.id, source, Filters(limit=1))
            raw = against_embedding(model, checkpoint, sources, length=request.length)
            show(store, page, checkpoint, raw, console)
    finally:
        store.close()
    console.print(f"`lexiscope serve` shows them all: http://{settings.host}:{settings.port}/")


def against_embedding(
    model: LanguageModel, checkpoint: Checkpoint, sources: Sequence[str], *, length: int
) -> AgainstEmbedding | None:
    """Over a sample of all features, dead ones too; None where W_E has another width than the residual
    stream.
    """
    embedding: Tensor = model.embedding.cpu()
    if embedding.shape[1] != model.d_model:
        return None
    layer, directions = checkpoint.layer, checkpoint.dictionary.directions
    rows = torch.randperm(len(directions), generator=torch.Generator().manual_seed(0))[:SAMPLE]
    batch = next(batches(passages(model, sources, length=length, tokens=4096), tokens=4096))
    with torch.inference_mode():
        x = model.read(batch.tokens.to(model.device), [layer])[layer].cpu()[batch.mask].float()
        chance = random_directions(torch.cov(x.T), SAMPLE)
        cosines = [
            nearest_tokens(each, embedding, 1).cosines.mean().item() for each in (directions[rows], chance)
        ]
    return AgainstEmbedding(*cosines)


def mean_of(histogram: Histogram) -> float:
    """The mean by the bins' middles: within half a bin of the true mean."""
    n = sum(histogram.counts)
    middles = [(low + high) / 2 for low, high in zip(histogram.edges, histogram.edges[1:], strict=False)]
    return (
        sum(middle * count for middle, count in zip(middles, histogram.counts, strict=True)) / n
        if n
        else float("nan")
    )


def show(
    store: Store, page: DictionaryPage, checkpoint: Checkpoint, raw: AgainstEmbedding | None, console: Console
) -> None:
    summary = page.summary
    console.rule(f"{summary.model}/{summary.source}")
    console.print(
        f"{checkpoint.path}: {summary.origin}, {summary.architecture}, "
        f"reads {checkpoint.hook or 'the layer that was given'}"
    )
    if summary.warning:
        console.print(Text.assemble(("WARNING:", "bold"), f" {summary.warning}"))
    for note in checkpoint.notes:
        console.print(f"Note: {note}.")
    figures = Table(show_header=False)
    values = measured_values(summary)
    verdicts = sorted(summary.verdicts.items(), key=lambda item: -item[1])
    for row in (
        ("anchors", summary.anchor_kind),
        ("features", f"{summary.d_sae:,}"),
        *(
            (measure.label, as_text(measure, values[measure.name]))
            for measure in placed(DICTIONARY, "tiles")
            if values[measure.name] is not None
        ),
        ("cosine to the nearest anchor, live features", f"{mean_of(page.cosine_histogram):.2f}"),
        (
            "cosine to the nearest row of raw W_E",
            "other width" if raw is None else f"{raw.features:.2f} (random directions {raw.random:.2f})",
        ),
        ("verdicts", ", ".join(f"{verdict} {count:,}" for verdict, count in verdicts)),
        ("tokens indexed", f"{summary.index_tokens:,}"),
    ):
        figures.add_row(*row)
    console.print(figures)
    names = Table(*HEADINGS, title="names that hold, the largest shares first")
    for feature in _best(store, page):
        names.add_row(*_line(feature))
    console.print(names)
    doubtful = Table(*HEADINGS, title="features that no word explains, the densest first")
    for feature in _features(
        store, page, Filters(verdict="none", sort="density", descending=True, limit=WRONG)
    ):
        doubtful.add_row(*_line(feature))
    console.print(doubtful)


def _features(store: Store, page: DictionaryPage, filters: Filters) -> list[FeatureRecord]:
    refs = store.dictionary_page(page.summary.model, page.summary.source, filters).features
    return [store.feature(ref.model, ref.source, ref.index).feature for ref in refs]


def _best(store: Store, page: DictionaryPage) -> list[FeatureRecord]:
    """Of the features with specific names, and then of those with partial ones, the largest shares; one a
    word.
    """
    best: dict[int, FeatureRecord] = {}
    for verdict in ("specific", "partial"):
        filters = Filters(verdict=verdict, sort="share", descending=True, limit=CANDIDATES)
        for feature in _features(store, page, filters):
            assert feature.fires is not None, "its verdict is on a relation"
            best.setdefault(feature.fires.words[0].id, feature)
    return list(best.values())[:SHOWN]


def _line(feature: FeatureRecord) -> list[str]:
    fires = feature.fires
    words = ["–", "–", "–"]
    if fires is not None:
        words = [
            f"{fires.relation} {' '.join(word.shown for word in fires.words)}",
            f"{fires.share:.0%} ({fires.low:.0%} to {fires.high:.0%})",
            f"{fires.chance:.1%}",
        ]
    anchor = [feature.name.shown, f"{feature.cosine:.2f}"]
    return [str(feature.index), feature.verdict, *words, f"{feature.n_firings:,}", *anchor]
