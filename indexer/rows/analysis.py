"""Everything that is known of one dictionary of a job, from which its rows are written."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from indexer.causal.ablation import StreamCache
from indexer.causal.effects import CausalEffects, CausalRequest, causal_effects
from indexer.counts.state import DictionaryCounts, PassState
from indexer.dictionaries import IdentifiedCheckpoint, NamedFeatures
from indexer.geometry import Geometry, geometry, random_cosine, write_list
from indexer.rows.reconstruction import reconstruction
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


class CausalAmounts(NamedTuple):
    """How much the causal pass of a dictionary does."""

    contexts: int
    """in which each live feature is ablated; 0 leaves the pass out"""
    steered: int
    """live features that are steered"""
    words: Tensor
    """token ids of the content words that the dictionary is asked to write"""


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


def analyse(
    counted: CountedModel,
    at: int,
    streams: StreamCache,
    lens: Tensor | None,
    sampled: SampledText,
    *,
    dictionary_id: int,
    causal: CausalAmounts,
) -> AnalysedDictionary:
    """The dictionary at index `at`. `lens` is the Jacobian lens of its layer, if there is one."""
    state, member, named = counted.state, counted.members[at], counted.named[at]
    counts, dictionary, fit = state.dictionaries[at], member.load_dictionary(), counted.anchors(at)
    live, occurrences = counted.live(at), state.occurrences
    norm_sum = state.norms.value()[state.shape.distinct_layers.index(member.layer)]
    mean_norm = float(norm_sum) / max(state.n_tokens, 1)
    directions = dictionary.directions
    writes = None if lens is None else write_list(counted.model, directions, lens)
    effects = None
    if causal.contexts:
        request = CausalRequest(
            streams=streams,
            layer=member.layer,
            dictionary=dictionary,
            names=named.first,
            controls=torch.from_numpy(counted.tables.controls),
            sample=counts.sample.firings,
            top=counts.top.firings,
            occurrences=torch.from_numpy(occurrences),
            live=live,
            mean_norm=mean_norm,
            writes=(named.logits.positive if writes is None else writes).tokens,
            lens=lens,
            words=causal.words,
            steered=causal.steered,
            contexts=causal.contexts,
        )
        effects = causal_effects(request)
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
        mean_norm=mean_norm,
        fve_text=reconstruction(dictionary, member.layer, streams),
    )
