"""Everything that is known of one dictionary of a job, from which its rows are written."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from indexer.causal.ablation import AblationRanks, ablate
from indexer.causal.effects import CausalEffects, CausalRequest, causal_effects
from indexer.counts.state import DictionaryCounts, PassState
from indexer.dictionaries import IdentifiedCheckpoint, NamedFeatures
from indexer.geometry import Geometry, geometry, random_cosine, write_list
from indexer.rows.reconstruction import StreamSample, reconstruction
from lexiscope.anchors import NearestTokens
from lexiscope.checkpoint import AnchorFit
from lexiscope.dictionary import Dictionary
from lexiscope.evidence import (
    Evidence,
    EvidenceCounts,
    NameTables,
    RelationEvidence,
    SampledText,
    relation_evidence,
)
from lexiscope.language_model import LanguageModel
from lexiscope.metrics import LIVE_RATE
from lexiscope.tokens import Vocabulary

WEIGHT_BYTES = 2 << 30
"""Of the dictionaries whose features are ablated in one reading of the passages."""


class CountedModel(NamedTuple):
    """One model's dictionaries after the pass over the text. Lists and `state.dictionaries` are
    in one order.
    """

    model: LanguageModel
    members: list[IdentifiedCheckpoint]
    named: list[NamedFeatures]
    anchors: Callable[[int], AnchorFit]
    """of the dictionary at an index"""
    vocabulary: Vocabulary
    tables: NameTables
    state: PassState

    def live(self, at: int) -> Tensor:
        """[d_sae] bool: features that fire often enough."""
        count = self.state.dictionaries[at].statistics.count
        return torch.from_numpy(count >= max(1.0, LIVE_RATE * self.state.n_tokens))

    def mean_norm(self, at: int) -> float:
        """Of the residual stream at the dictionary's layer."""
        layer = self.state.shape.distinct_layers.index(self.members[at].layer)
        return float(self.state.norms.value()[layer]) / max(self.state.n_tokens, 1)


class CausalAmounts(NamedTuple):
    """How much the causal pass of a dictionary does."""

    contexts: int
    """in which each live feature is ablated; 0 leaves the pass out"""
    steered: int
    """live features that are steered"""
    words: Tensor
    """token ids of the content words that the dictionary is asked to write"""


class Prepared(NamedTuple):
    """What is made of all dictionaries of a model before the rows of any: they share the passages in which
    their features are ablated.
    """

    writes: NearestTokens | None
    """[d_sae, LOGITS] as in `AnalysedDictionary`"""
    ablated: AblationRanks | None


class AnalysedDictionary(NamedTuple):
    dictionary_id: int
    member: IdentifiedCheckpoint
    anchor_kind: str
    dictionary: Dictionary
    named: NamedFeatures
    counts: DictionaryCounts
    live: Tensor
    """[d_sae] bool"""
    assigned: Tensor
    """[d_sae] the tokens of the anchors that rows were trained near, −1 for none"""
    relations: RelationEvidence
    """what the features fire on, and their verdicts"""
    evidence: Evidence
    """for the nearest anchors, on the half of the passages that names are judged on"""
    geometry: Geometry
    writes: NearestTokens | None
    """[d_sae, LOGITS] tokens that each direction raises most through the Jacobian lens, with their logits;
    None without a lens
    """
    causal: CausalEffects | None
    """None where the causal pass was left out"""
    random_cosine: float
    """mean cosine of a random direction to its nearest anchor"""
    mean_norm: float
    """of the residual stream"""
    fve_text: float
    """how well it reconstructs the text that was read"""


def prepare(counted: CountedModel, lenses: Mapping[int, Tensor], causal: CausalAmounts) -> list[Prepared]:
    """Of each dictionary. `lenses` are the Jacobian lenses by layer, where they were fitted."""
    prepared: list[Prepared] = []
    for members in _that_fit(counted.members):
        writes, requests = [], []
        for at in members:
            lens, dictionary = lenses.get(counted.members[at].layer), counted.members[at].load_dictionary()
            writes.append(None if lens is None else write_list(counted.model, dictionary.directions, lens))
            if causal.contexts:
                request = _causal_request(counted, at, dictionary, lens, writes[-1], causal)
                requests.append(request.ablation())
        ranks = ablate(counted.model, counted.state.passages, requests) if requests else [None] * len(members)
        prepared += map(Prepared, writes, ranks)
    return prepared


def _that_fit(members: Sequence[IdentifiedCheckpoint]) -> Iterator[list[int]]:
    """Indices of dictionaries whose weights are in memory together."""
    together: list[int] = []
    size = 0
    for at, member in enumerate(members):
        size += 2 * 4 * member.d_sae * member.checkpoint.dictionary.d_in
        if together and size > WEIGHT_BYTES:
            yield together
            together, size = [], 2 * 4 * member.d_sae * member.checkpoint.dictionary.d_in
        together.append(at)
    if together:
        yield together


def _causal_request(
    counted: CountedModel,
    at: int,
    dictionary: Dictionary,
    lens: Tensor | None,
    writes: NearestTokens | None,
    causal: CausalAmounts,
) -> CausalRequest:
    named, counts = counted.named[at], counted.state.dictionaries[at]
    return CausalRequest(
        model=counted.model,
        passages=counted.state.passages,
        layer=counted.members[at].layer,
        dictionary=dictionary,
        names=named.first,
        controls=torch.from_numpy(counted.tables.controls),
        sample=counts.sample.firings,
        top=counts.top.firings,
        occurrences=torch.from_numpy(counted.state.occurrences),
        live=counted.live(at),
        mean_norm=counted.mean_norm(at),
        writes=(named.logits.positive if writes is None else writes).tokens,
        lens=lens,
        words=causal.words,
        steered=causal.steered,
        contexts=causal.contexts,
    )


def analyse(
    counted: CountedModel,
    at: int,
    streams: StreamSample,
    lens: Tensor | None,
    sampled: SampledText,
    prepared: Prepared,
    *,
    dictionary_id: int,
    causal: CausalAmounts,
) -> AnalysedDictionary:
    """The dictionary at index `at`. `lens` is the Jacobian lens of its layer, if there is one."""
    state, member, named = counted.state, counted.members[at], counted.named[at]
    counts, dictionary, fit = state.dictionaries[at], member.load_dictionary(), counted.anchors(at)
    live, directions, writes, effects = counted.live(at), dictionary.directions, prepared.writes, None
    if prepared.ablated is not None:
        request = _causal_request(counted, at, dictionary, lens, writes, causal)
        effects = causal_effects(request, prepared.ablated)
    evidence = EvidenceCounts.of(
        named.first, counted.tables, counts.names, counts.firings.judged, state.judged_occurrences
    )
    return AnalysedDictionary(
        dictionary_id=dictionary_id,
        member=member,
        anchor_kind=fit.kind or member.anchor_kind,
        dictionary=dictionary,
        named=named,
        counts=counts,
        live=live,
        assigned=fit.assigned,
        relations=relation_evidence(counts.firings, sampled, live.numpy()),
        evidence=evidence.result(live, None if effects is None else effects.p_ablation),
        geometry=geometry(directions, fit, named.names, embedding=counted.model.embedding, live=live),
        writes=writes,
        causal=effects,
        random_cosine=random_cosine(torch.from_numpy(state.covariances[member.layer]), fit),
        mean_norm=counted.mean_norm(at),
        fve_text=reconstruction(dictionary, member.layer, streams),
    )
