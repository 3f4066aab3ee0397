"""`lexiscope index`: checkpoints and a text in, one published build of the index out.

One streaming pass of each model feeds all its dictionaries; then what the weights alone say is added and everything is loaded
at once. Until `publish`, the old index serves; a build that does not get there is garbage.
"""

import json
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from indexer.corpus import Corpus, Observed, Subject, read_corpus
from indexer.geometry import LogitEffect, geometry, logit_effect, name_features, neighbours, random_cosine
from indexer.rows import NO_NEIGHBOURS, context_table, feature_table, passage_table, relation_pairs
from indexer.statistics import EDGES
from lexiscope import metrics
from lexiscope.anchors import ALIGNED, Names
from lexiscope.checkpoint import AnchorFit, Checkpoint
from lexiscope.errors import CheckpointError, LexiscopeError
from lexiscope.evidence import Evidence, families, matched_controls
from lexiscope.language_model import LanguageModel, hook_name
from lexiscope.settings import Settings
from lexiscope.text import fingerprint, passages
from lexiscope.tokens import Vocabulary
from store import Builder

LOG_TOKENS = 50_000
"""Where the output is no terminal, a line of progress this often."""
HUBS = 20
COSINE_EDGES = np.linspace(-0.2, 1, 61)
DENSITY_EDGES = np.round(10 ** np.linspace(-7, 0, 43), 9)


class IndexingError(LexiscopeError):
    """Dictionaries or a text that cannot be indexed together."""


class Identified(NamedTuple):
    """A checkpoint with the identity it is indexed under."""

    checkpoint: Checkpoint
    fit: AnchorFit
    source: str
    layer: int
    set_name: str

    @property
    def anchor_kind(self) -> str:
        return str(self.checkpoint.details.get("anchors", "unknown"))


def identify(model: LanguageModel, checkpoint: Checkpoint) -> Identified:
    """Raises CheckpointError: no anchors' fit, a width or a vocabulary that is not the model's, a layer it lacks."""
    details = checkpoint.details
    dictionary, fit = checkpoint.dictionary, checkpoint.fit
    if dictionary.d_in != model.d_model:
        raise CheckpointError(
            f"{checkpoint.path} reads activations of width {dictionary.d_in}, but {model.id} has width {model.d_model}: "
            "it was trained on another model."
        )
    if fit is None or "layer" not in details:
        raise CheckpointError(f"{checkpoint.path} carries no anchors (anchors.safetensors): it cannot be named.")
    if len(fit.anchors) != model.vocab_size:
        raise CheckpointError(
            f"{checkpoint.path} has anchors for {len(fit.anchors):,} tokens, but {model.id} has {model.vocab_size:,}: "
            "it was trained on another model."
        )
    layer = int(details["layer"])
    model.check_layers([layer])
    return Identified(checkpoint, fit, f"{layer}-{details['set']}", layer, str(details["set"]))


def index(
    groups: Sequence[tuple[LanguageModel, Sequence[Checkpoint]]],
    sources: Sequence[str],
    *,
    settings: Settings,
    console: Console,
    tokens: int | None = None,
    length: int = 256,
) -> str:
    """Index every checkpoint of every model over the text; other dictionaries of the served index are kept. Returns the build id."""
    identified = [(model, [identify(model, c) for c in checkpoints]) for model, checkpoints in groups]
    identities = [(model.id, found.source) for model, group in identified for found in group]
    if len(set(identities)) < len(identities):
        twice = next(i for i in identities if identities.count(i) > 1)
        raise IndexingError(f"Two dictionaries would be called {twice[0]}/{twice[1]}; train one of them with another --set.")
    with Builder(settings) as builder:
        kept = builder.keep_others(replacing=identities)
        if kept.note:
            console.print(kept.note)
        for model, group in identified:
            _index_model(builder, model, group, sources, console=console, tokens=tokens, length=length)
        return builder.publish()


def _index_model(
    builder: Builder,
    model: LanguageModel,
    group: Sequence[Identified],
    sources: Sequence[str],
    *,
    console: Console,
    tokens: int | None,
    length: int,
) -> None:
    vocabulary = Vocabulary(model.tokenizer, model.vocab_size)
    with Progress(
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:,.0f}"), TimeRemainingColumn(), console=console
    ) as progress:
        naming = progress.add_task(f"{model.id}: naming", total=len(group))
        names: list[Names] = []
        logits: list[LogitEffect] = []
        for found in group:
            names.append(name_features(found.checkpoint.dictionary, found.fit))
            logits.append(logit_effect(model, found.checkpoint.dictionary.directions, names[-1].tokens[:, 0]))
            progress.advance(naming)
        task = progress.add_task(f"{model.id}: reading the text (tokens)", total=tokens)

        def advance(n: int) -> None:
            before = progress.tasks[task].completed
            progress.advance(task, n)
            if not console.is_terminal and before // LOG_TOKENS < (before + n) // LOG_TOKENS:
                console.print(f"{model.id}: {before + n:,.0f} tokens read")

        counts = torch.stack([found.fit.counts for found in group]).mean(0)
        corpus = read_corpus(
            model,
            [
                Subject(found.layer, found.checkpoint.dictionary, name.tokens[:, 0], effect.positive.tokens[:, 0])
                for found, name, effect in zip(group, names, logits, strict=True)
            ],
            passages(model, sources, length=length, tokens=tokens),
            families=families(model.embedding, vocabulary.folded()),
            controls=matched_controls(counts),
            length=min(length, model.context_length),
            advance=advance,
        )
        if not any((seen.statistics.count > 0).any() for seen in corpus.observed):
            raise IndexingError("No feature of these dictionaries fires anywhere in this text: there is nothing to index.")
        weighing = progress.add_task(f"{model.id}: logit effects and neighbours", total=len(group))
        _write_dictionaries(
            builder, model, group, names, logits, vocabulary.folded(), corpus, fingerprint(sources), lambda: progress.advance(weighing)
        )
    builder.add(
        "token",
        pa.table(
            {
                "model": [model.id] * len(vocabulary),
                "token_id": np.arange(len(vocabulary)),
                "shown": vocabulary.shown,
                "raw": [raw.hex() for raw in vocabulary.raw],
                "folded": vocabulary.folded(),
                "count": corpus.occurrences,
            }
        ),
    )


def _write_dictionaries(
    builder: Builder,
    model: LanguageModel,
    group: Sequence[Identified],
    names: Sequence[Names],
    effects: Sequence[LogitEffect],
    folded: list[str],
    corpus: Corpus,
    text: str,
    advance: Callable[[], None],
) -> None:
    first_dictionary, first_passage = builder.next_dictionary_id, builder.next_passage_id
    live = [seen.firing.live for seen in corpus.observed]
    before, after = _neighbouring(group)
    used: list[np.ndarray] = []
    for at, (found, name, seen) in enumerate(zip(group, names, corpus.observed, strict=True)):
        dictionary, directions = found.checkpoint.dictionary, found.checkpoint.dictionary.directions
        alive = live[at].nonzero().squeeze(1)
        result = seen.evidence.result(live[at])
        shape = geometry(dictionary, found.fit, name, embedding=model.embedding, live=live[at])
        relations = {"neighbour": neighbours(directions[alive], directions, among=alive, itself=True)}
        for relation, other in (("previous", before.get(at)), ("next", after.get(at))):
            relations[relation] = NO_NEIGHBOURS
            if other is not None:
                theirs = group[other].checkpoint.dictionary.directions
                relations[relation] = neighbours(directions[alive], theirs, among=live[other].nonzero().squeeze(1), limit=3)
        table = feature_table(
            dictionary_id=first_dictionary + at,
            anchor_kind=found.anchor_kind,
            seen=seen,
            geometry=shape,
            assigned=found.fit.assigned,
            logits=effects[at],
            folded=folded,
            occurrences=corpus.occurrences,
            evidence=result,
            lift=seen.statistics.lift(corpus.occurrences),
            live=live[at],
            relations={
                key: relation_pairs(value, alive if len(value.tokens) else alive[:0], dictionary.d_sae) for key, value in relations.items()
            },
        )
        contexts, points_at = context_table(seen, corpus.passages, dictionary_id=first_dictionary + at, first_passage=first_passage)
        used.append(points_at)
        chance = random_cosine(corpus.covariances[found.layer], found.fit)
        builder.add("dictionary", _dictionary_row(model, found, corpus, seen, text, chance, first_dictionary, at, before, after))
        builder.add("layer_summary", _summary_row(found, name, corpus, seen, result, table, model, first_dictionary + at))
        builder.add("feature", table)
        builder.add("context", contexts)
        advance()
    pointed = np.unique(np.concatenate(used))
    builder.add("passage", passage_table(corpus.passages, pointed, first_passage=first_passage, corpus=text))


def _neighbouring(group: Sequence[Identified]) -> tuple[dict[int, int], dict[int, int]]:
    """For each member of the group, the member of the same set at the layer before, and after."""
    before: dict[int, int] = {}
    after: dict[int, int] = {}
    for name in {found.set_name for found in group}:
        members = sorted((found.layer, at) for at, found in enumerate(group) if found.set_name == name)
        for (_, low), (_, high) in pairwise(members):
            before[high], after[low] = low, high
    return before, after


def _dictionary_row(
    model: LanguageModel,
    found: Identified,
    corpus: Corpus,
    seen: Observed,
    text: str,
    chance: float,
    first: int,
    at: int,
    before: dict[int, int],
    after: dict[int, int],
) -> pa.Table:
    dictionary = found.checkpoint.dictionary
    row = {
        "dictionary_id": first + at,
        "model": model.id,
        "source": found.source,
        "layer": found.layer,
        "recipe": found.checkpoint.details["recipe"],
        "origin": "lexiscope",
        "architecture": str(found.checkpoint.config.get("architecture", "topk")),
        "d_in": dictionary.d_in,
        "d_sae": dictionary.d_sae,
        "k": dictionary.k,
        "hook_name": hook_name(found.layer),
        "anchor_kind": found.anchor_kind,
        "model_path": model.path,
        "checkpoint_path": str(found.checkpoint.path.resolve()),
        "corpus": text,
        "n_tokens": seen.statistics.n_tokens,
        "n_passages": len(corpus.passages),
        "vocab_size": model.vocab_size,
        "l0": float(seen.statistics.count.sum() / max(seen.statistics.n_tokens, 1)),
        "mean_norm": corpus.mean_norms[found.layer],
        "random_cosine": chance,
        "position_edges": seen.statistics.position_edges.tolist(),
        "position_totals": corpus.position_totals.tolist(),
        "causal": None,
        "histogram_edges": EDGES.tolist(),
        "training": json.dumps(found.checkpoint.details),
        "metrics": json.dumps(found.checkpoint.metrics),
        "previous_dictionary": first + before[at] if at in before else None,
        "next_dictionary": first + after[at] if at in after else None,
    }
    return pa.Table.from_pylist([row])


def _summary_row(
    found: Identified,
    names: Names,
    corpus: Corpus,
    seen: Observed,
    evidence: Evidence,
    table: pa.Table,
    model: LanguageModel,
    dictionary_id: int,
) -> pa.Table:
    dictionary, measured = found.checkpoint.dictionary, found.checkpoint.metrics
    live, firings = seen.firing.live, seen.firing.firings
    cosines = names.cosines[:, 0]
    energy = seen.firing.squares * dictionary.W_dec.square().sum(-1)
    aligned = metrics.alignment(cosines, live, firings, energy)
    to_embedding = torch.from_numpy(table["cosine_embedding"].to_numpy().copy())
    densities = (seen.statistics.count / max(seen.statistics.n_tokens, 1))[seen.statistics.count > 0]
    hubs = torch.bincount(names.tokens[live].flatten()).topk(min(HUBS, int(names.tokens[live].max()) + 1))
    verdicts = table["verdict"].value_counts().to_pylist()
    row = {
        "dictionary_id": dictionary_id,
        "n_live": int(live.sum()),
        "dead_share": 1 - live.float().mean().item(),
        "aligned_all": aligned.all,
        "aligned_live": aligned.live,
        "aligned_firing": aligned.firing,
        "aligned_energy": aligned.energy,
        "aligned_live_embedding": metrics.weighted_share(to_embedding >= ALIGNED, live),
        "supported_live": metrics.weighted_share(evidence.supported, live),
        "supported_firing": metrics.weighted_share(evidence.supported, firings * live),
        "half_live": metrics.weighted_share(evidence.share["family"] >= 0.5, live),
        "coverage": metrics.coverage(names.tokens[:, 0], live & (cosines >= ALIGNED), torch.from_numpy(corpus.occurrences)),
        "verdicts": json.dumps({v["values"]: v["counts"] for v in verdicts}),
        "fve": measured.get("fve"),
        "delta_ce": measured.get("delta_ce"),
        "dense_share": measured.get("dense_share"),
        "lookup_share": measured.get("lookup_share"),
        "ablation_top1": None,
        "ablation_top5": None,
        "hub_tokens": hubs.indices.tolist(),
        "hub_counts": hubs.values.tolist(),
        "index_tokens": seen.statistics.n_tokens,
        "cosine_counts": np.histogram(cosines[live], COSINE_EDGES)[0].tolist(),
        "cosine_edges": COSINE_EDGES.tolist(),
        "density_counts": np.histogram(densities, DENSITY_EDGES)[0].tolist(),
        "density_edges": DENSITY_EDGES.tolist(),
    }
    return pa.Table.from_pylist([row])
