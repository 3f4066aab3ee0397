"""From what was learned of one model's dictionaries to the rows of a build: what the weights alone say is
added here.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from rich.console import Console
from torch import Tensor

from indexer.counts.coactivation import matches
from indexer.counts.name_counts import Relatives
from indexer.counts.state import State
from indexer.dictionaries import Member, Named, neighbouring
from indexer.geometry import geometry, neighbours, random_cosine
from indexer.rows.ablation import Causal, Streams, causal_effects
from indexer.rows.context_rows import Texts, context_table, passage_table
from indexer.rows.dictionary_rows import Indexed, dictionary_row, summary_row
from indexer.rows.feature_rows import NO_NEIGHBOURS, feature_table, relation_pairs
from lexiscope.checkpoint import AnchorFit
from lexiscope.language_model import LanguageModel
from lexiscope.metrics import LIVE_RATE
from lexiscope.tokens import Vocabulary
from store import Builder

Pairs = list[tuple[list[int], list[float]]]


class Learned(NamedTuple):
    """All that was learned of one model's dictionaries."""

    state: State
    named: Sequence[Named]
    fits: Callable[[int], AnchorFit]
    """the anchors of each"""
    vocabulary: Vocabulary
    relatives: Relatives


class _Directions:
    """Unit decoder rows of a dictionary and of those in the neighbouring layers, read once each while they
    are near.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        self._members = members
        self._held: dict[int, Tensor] = {}

    def __call__(self, at: int, *, near: set[int]) -> Tensor:
        self._held = {key: value for key, value in self._held.items() if key in near}
        if at not in self._held:
            self._held[at] = self._members[at].dictionary().directions
        return self._held[at]


def write_model(
    builder: Builder,
    model: LanguageModel,
    members: Sequence[Member],
    found: Learned,
    *,
    corpus: str,
    console: Console,
    ablate: int,
) -> None:
    """Add all rows of one model's dictionaries to a build; `corpus` is the text's fingerprint, `ablate` the
    contexts a feature of the ablation pass (0: none).
    """
    state = found.state
    first_dictionary, first_passage = builder.next_dictionary_id, builder.next_passage_id
    live = [
        torch.from_numpy(each.statistics.count >= max(1.0, LIVE_RATE * state.n_tokens))
        for each in state.learned
    ]
    before, after = neighbouring(members)
    directions = _Directions(members)
    folded = found.vocabulary.folded()
    texts, used = Texts(state.passages), [np.zeros(0, np.int64)]
    streams = Streams(model, [member.layer for member in members], state.passages)
    for at, given in enumerate(members):
        member = given._replace(anchor_kind=found.fits(at).kind or given.anchor_kind)
        console.print(f"{model.id}/{member.source}: writing what its features do", highlight=False)
        around = {
            name: other
            for name, other in (("previous", before.get(at)), ("next", after.get(at)))
            if other is not None
        }
        near = {at, *around.values()}
        relations = {"neighbour": _neighbours(directions(at, near=near), live[at])}
        for name in ("previous", "next"):
            other = around.get(name)
            relations[name] = _no_pairs(member.d_sae)
            relations[f"{name}_coactive"] = _no_pairs(member.d_sae)
            if other is not None:
                relations[name] = _across(
                    directions(at, near=near), live[at], directions(other, near=near), live[other]
                )
                relations[f"{name}_coactive"] = matches(
                    state.learned[at].coactive, state.learned[other].coactive, member.d_sae
                )
        whole = _indexed(model, member, found, at, live[at], first_dictionary + at, streams, ablate=ablate)
        table = feature_table(whole, relations, folded=folded, occurrences=state.occurrences)
        contexts, points_at = context_table(
            whole.learned, texts, dictionary_id=whole.dictionary_id, first_passage=first_passage
        )
        used.append(points_at)
        links = (first_dictionary + around[name] if name in around else None for name in ("previous", "next"))
        previous, following = links
        builder.add(
            "dictionary",
            dictionary_row(model, whole, state, corpus=corpus, previous=previous, following=following),
        )
        builder.add("layer_summary", summary_row(whole, state, table["verdict"].value_counts().to_pylist()))
        builder.add("feature", table)
        builder.add("context", contexts)
    builder.add(
        "passage",
        passage_table(
            state.passages, np.unique(np.concatenate(used)), first_passage=first_passage, corpus=corpus
        ),
    )
    builder.add("token", _token_table(model, found.vocabulary, folded, state.occurrences))


def _indexed(
    model: LanguageModel,
    member: Member,
    found: Learned,
    at: int,
    live: Tensor,
    dictionary_id: int,
    streams: Streams,
    *,
    ablate: int,
) -> Indexed:
    state, learned, named = found.state, found.state.learned[at], found.named[at]
    dictionary, fit, first = member.dictionary(), found.fits(at), named.names.tokens[:, 0]
    effects: Causal | None = None
    norms = state.norms.value()
    mean_norm = float(norms[state.shape.distinct_layers.index(member.layer)]) / max(state.n_tokens, 1)
    if ablate:
        effects = causal_effects(
            model,
            member.layer,
            dictionary,
            first,
            found.relatives.controls,
            sample=learned.sample.firings,
            top=learned.top.firings,
            passages=state.passages,
            occurrences=torch.from_numpy(state.occurrences),
            live=live,
            mean_norm=mean_norm,
            contexts_each=ablate,
            streams=streams,
        )
    counts = learned.names.counts(first, learned.statistics.count, state.occurrences, found.relatives)
    covariance = torch.from_numpy(state.covariances[member.layer])
    return Indexed(
        member=member,
        dictionary=dictionary,
        named=named,
        learned=learned,
        live=live,
        assigned=fit.assigned,
        evidence=counts.result(live, None if effects is None else effects.p_ablation),
        shape=geometry(dictionary, fit, named.names, embedding=model.embedding, live=live),
        causal=effects,
        random_cosine=random_cosine(covariance, fit),
        mean_norm=mean_norm,
        dictionary_id=dictionary_id,
    )


def _no_pairs(d_sae: int) -> Pairs:
    return [([], [])] * d_sae


def _neighbours(directions: Tensor, live: Tensor) -> Pairs:
    alive = live.nonzero().squeeze(1)
    return relation_pairs(
        neighbours(directions[alive], directions, among=alive, itself=True), alive, len(directions)
    )


def _across(directions: Tensor, live: Tensor, others: Tensor, theirs: Tensor) -> Pairs:
    alive, among = live.nonzero().squeeze(1), theirs.nonzero().squeeze(1)
    found = neighbours(directions[alive], others, among=among, limit=3) if len(alive) else NO_NEIGHBOURS
    return relation_pairs(found, alive, len(directions))


def _token_table(
    model: LanguageModel, vocabulary: Vocabulary, folded: list[str], occurrences: np.ndarray
) -> pa.Table:
    return pa.table(
        {
            "model": [model.id] * len(vocabulary),
            "token_id": np.arange(len(vocabulary)),
            "shown": vocabulary.shown,
            "raw": [raw.hex() for raw in vocabulary.raw],
            "folded": folded,
            "count": occurrences,
        }
    )
