"""The causal evidence for the names of one dictionary: a second pass of the model, after the text was read,
over a sample of each live feature's own firings. Every figure has its value at chance, from frequency-matched
control tokens.
"""

import time
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from indexer.causal.ablation import StreamCache, ablate, spread_over_activations
from indexer.causal.scores import PROMPT, STRENGTH, input_scores, output_scores
from indexer.counts.firings import TextFirings
from lexiscope.dictionary import Dictionary
from lexiscope.evidence import ablation_p, benjamini_hochberg

CONTEXTS = 5
"""Contexts in which each feature is ablated, unless told otherwise."""


@dataclass(frozen=True, kw_only=True)
class CausalRequest:
    """One dictionary and its firings."""

    streams: StreamCache
    """may be shared between the dictionaries of one text"""
    layer: int
    dictionary: Dictionary
    names: Tensor
    """[d_sae] token ids"""
    controls: Tensor
    """[vocab, draws] tokens of like frequency (`lexiscope.evidence.matched_controls`)"""
    sample: TextFirings
    """a uniform sample of each feature's firings, by feature"""
    top: TextFirings
    """each feature's best contexts, one a passage, by feature"""
    occurrences: Tensor
    """[vocab] of each token in the text"""
    live: Tensor
    """[d_sae] bool: the features that may be tested"""
    mean_norm: float
    """of the residual stream at the layer"""
    contexts: int = CONTEXTS
    """contexts in which each feature is ablated"""
    limit: int | None = None
    """features tested at most, chosen at random; all live ones unless given"""
    seed: int = 0

    def tested(self) -> Tensor:
        """[d_sae] bool"""
        alive = self.live.nonzero().squeeze(1)
        if self.limit is None or len(alive) <= self.limit:
            return self.live
        order = torch.randperm(len(alive), generator=torch.Generator().manual_seed(self.seed))
        tested = torch.zeros_like(self.live)
        tested[alive[order[: self.limit]]] = True
        return tested


class CausalEffects(NamedTuple):
    """Per feature [d_sae]; NaN (contexts: −1) where a feature was not tested. Named as the columns of the
    store.
    """

    ablation_rank: Tensor
    """median rank of the name among all tokens by how far the ablation lowers their logits, 0 = lowers it
    most
    """
    ablation_top1: Tensor
    ablation_top1_null: Tensor
    ablation_top5: Tensor
    ablation_top5_null: Tensor
    q_ablation: Tensor
    ablation_contexts: Tensor
    input_score: Tensor
    input_score_null: Tensor
    output_score: Tensor
    output_score_null: Tensor
    p_ablation: Tensor
    """for the verdict"""
    parameters: dict[str, Any]
    """how the pass was run: JSON of the dictionary's column `causal`"""

    def measures(self) -> dict[str, Tensor]:
        """Those of `lexiscope.measures.FEATURE`, by name."""
        internal = ("p_ablation", "parameters")
        return {name: value for name, value in self._asdict().items() if name not in internal}


def causal_effects(request: CausalRequest) -> CausalEffects:
    begun = time.monotonic()
    names, controls, streams = request.names, request.controls, request.streams
    tested = request.tested()
    chosen = spread_over_activations(request.sample, tested, request.contexts)
    candidates = torch.cat([names[:, None], controls[names]], 1)
    ranks = ablate(streams, request.layer, request.dictionary, candidates, chosen)
    counts = ranks.counts(names, 0, slice(1, None))
    p = ablation_p(counts, request.occurrences[names])
    inputs = input_scores(request.top, streams.passages, names, controls, tested)
    length = STRENGTH * request.mean_norm
    outputs = output_scores(
        streams.model, request.layer, request.dictionary, names, controls, tested, length=length
    )
    known = counts.contexts > 0
    top1 = ranks.top1_shares(len(names))
    return CausalEffects(
        ablation_rank=ranks.medians(len(names), 0),
        ablation_top1=top1[:, 0],
        ablation_top1_null=top1[:, 1:].mean(1),
        ablation_top5=counts.hits / counts.contexts,
        ablation_top5_null=counts.control_hits.float().mean(1) / counts.contexts,
        q_ablation=benjamini_hochberg(p.nan_to_num(1), known).float().where(known, float("nan")),
        ablation_contexts=counts.contexts.where(known, -1),
        input_score=inputs.name,
        input_score_null=inputs.chance,
        output_score=outputs.name,
        output_score_null=outputs.chance,
        p_ablation=p,
        parameters={
            "contexts": request.contexts,
            "features": int(known.sum()),
            "limit": request.limit,
            "controls": controls.shape[1],
            "positions": len(chosen.feature),
            "prompt": PROMPT,
            "strength": STRENGTH,
            "mean_norm": request.mean_norm,
            "seconds": round(time.monotonic() - begun, 1),
        },
    )
