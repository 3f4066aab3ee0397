"""The causal evidence for the names of one dictionary and for what its features write: a second pass of the
model, after the text was read, over a sample of each live feature's own firings, and over neutral prefixes.
Every figure has its value at chance, from frequency-matched control tokens and from other features.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from indexer.causal.ablation import AblationRanks, AblationRequest, Passages, spread_over_activations
from indexer.causal.scores import PROMPT, STRENGTH, input_scores, output_scores
from indexer.causal.steering import Ground, neutral_prefixes
from indexer.causal.writing import WriteRequest, parameters, steered_writes
from indexer.counts.firings import TextFirings
from lexiscope.dictionary import Dictionary
from lexiscope.evidence import ablation_p, benjamini_hochberg, write_verdicts
from lexiscope.language_model import LanguageModel
from lexiscope.measures import WRITTEN

CONTEXTS = 5
"""Contexts in which each feature is ablated, unless told otherwise."""
STEERED = 200
"""Live features that are steered, unless told otherwise."""


@dataclass(frozen=True, kw_only=True)
class CausalRequest:
    """One dictionary and its firings."""

    model: LanguageModel
    passages: Passages
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
    writes: Tensor
    """[d_sae, at least WRITTEN] token ids of each feature's write list, best first"""
    lens: Tensor | None = None
    """[d_model, d_model] the Jacobian lens that made the write lists; None for the logit lens"""
    words: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))
    """token ids of content words that the dictionary is asked to write"""
    steered: int = STEERED
    """live features that are steered, drawn by seed"""
    mean_norm: float
    """of the residual stream at the layer"""
    contexts: int = CONTEXTS
    """contexts in which each feature is ablated"""
    limit: int | None = None
    """features tested at most, chosen at random; all live ones unless given"""
    seed: int = 0
    fast: bool = True
    """run the model in bf16 where that is faster"""

    def ablation(self) -> AblationRequest:
        """For `ablate`: the ranks of the name, of the written tokens and of the controls of both."""
        writes = self.writes[:, :WRITTEN]
        drawn = self.controls[writes].transpose(1, 2).flatten(1)  # a column a draw and written token
        tokens = torch.cat([self.names[:, None], writes, self.controls[self.names], drawn], 1)
        chosen = spread_over_activations(self.sample, self.tested(), self.contexts)
        return AblationRequest(self.layer, self.dictionary, tokens, chosen, ranked=1 + WRITTEN)

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
    write_top5: Tensor
    write_top5_null: Tensor
    q_write: Tensor
    write_rise: Tensor
    write_control: Tensor
    write_strength: Tensor
    p_ablation: Tensor
    """for the verdict on the name"""
    written: "Written"
    parameters: dict[str, Any]
    """how the pass was run: JSON of the dictionary's column `causal`"""

    def measures(self) -> dict[str, Tensor]:
        """Those of `lexiscope.measures.FEATURE`, by name."""
        internal = ("p_ablation", "written", "parameters")
        return {name: value for name, value in self._asdict().items() if name not in internal}


class Written(NamedTuple):
    """What the dictionary writes."""

    verdict: np.ndarray
    """[d_sae] one of WRITE_VERDICTS"""
    ranks: Tensor
    """[d_sae, WRITTEN] median rank of each written token among the logits that ablation lowers; NaN where the
    feature was not ablated
    """
    rises: Tensor
    """[d_sae, WRITTEN] of each written token's probability; NaN where the feature was not steered"""
    measured: list[dict[str, Any]]
    """rows of the table `written`, without dictionary_id"""
    shares: dict[str, float]
    """measures of the dictionary"""


def causal_effects(request: CausalRequest, ranks: AblationRanks) -> CausalEffects:
    """`ranks` are those that `ablate` found for `request.ablation()`."""
    model, names, controls = request.model, request.names, request.controls
    tested, writes, d_sae = request.tested(), request.writes[:, :WRITTEN], len(request.names)
    first, second = 1 + WRITTEN, 1 + WRITTEN + controls.shape[1]
    counts = ranks.counts(names[:, None], slice(0, 1), slice(first, second))
    of_writes = ranks.counts(writes, slice(1, first), slice(second, None))
    p = ablation_p(counts, request.occurrences[names])
    p_writes = ablation_p(of_writes, request.occurrences[writes].amax(1))
    inputs = input_scores(request.top, request.passages, names, controls, tested)
    length, fast = STRENGTH * request.mean_norm, request.fast
    outputs = output_scores(
        model, request.layer, request.dictionary, names, controls, tested, length=length, fast=fast
    )
    known = counts.contexts > 0
    top1 = ranks.top1_shares(d_sae)
    falls = of_writes.hits / of_writes.contexts
    q_write = benjamini_hochberg(p_writes.nan_to_num(1), known).float().where(known, float("nan"))
    asked = _write_request(request, tested)
    steered = steered_writes(asked)
    rise, control = steered.rises[:, 0], steered.control
    verdict = write_verdicts(request.live, falls=falls, q=q_write, rise=rise, control=control)
    return CausalEffects(
        ablation_rank=ranks.medians(d_sae, 0),
        ablation_top1=top1[:, 0],
        ablation_top1_null=top1[:, first:second].mean(1),
        ablation_top5=counts.hits / counts.contexts,
        ablation_top5_null=counts.control_hits.float().mean(1) / counts.contexts,
        q_ablation=benjamini_hochberg(p.nan_to_num(1), known).float().where(known, float("nan")),
        ablation_contexts=counts.contexts.where(known, -1),
        input_score=inputs.name,
        input_score_null=inputs.chance,
        output_score=outputs.name,
        output_score_null=outputs.chance,
        write_top5=falls,
        write_top5_null=of_writes.control_hits.float().mean(1) / of_writes.contexts,
        q_write=q_write,
        write_rise=rise,
        write_control=control,
        write_strength=steered.strength,
        p_ablation=p,
        written=Written(
            verdict,
            torch.stack([ranks.medians(d_sae, column) for column in range(1, first)], 1),
            steered.rises,
            steered.measured,
            steered.shares | write_shares(verdict),
        ),
        parameters={
            "contexts": request.contexts,
            "features": int(known.sum()),
            "limit": request.limit,
            "controls": controls.shape[1],
            "positions": len(ranks.feature),
            "prompt": PROMPT,
            "strength": STRENGTH,
            "mean_norm": request.mean_norm,
            "steering": {**parameters(asked), "kl_reached": round(steered.reached, 3)},
        },
    )


def _write_request(request: CausalRequest, tested: Tensor) -> WriteRequest:
    """Only features that are ablated are steered."""
    prefixes = neutral_prefixes(request.passages)
    ground = Ground(request.model, request.layer, prefixes, mean_norm=request.mean_norm, fast=request.fast)
    return WriteRequest(
        ground=ground,
        dictionary=request.dictionary,
        live=tested,
        lens=request.lens,
        tokens=request.writes[:, :WRITTEN],
        controls=request.controls,
        words=request.words if prefixes else request.words[:0],
        features=request.steered if prefixes else 0,
        seed=request.seed,
    )


def write_shares(verdict: np.ndarray) -> dict[str, float]:
    """Measures of the dictionary: what of the features tested is confirmed by either intervention."""
    tested = ~np.isin(verdict, ("untested", "dead"))
    if not tested.any():
        return {}
    by = {"write_steering": ("both", "steering"), "write_ablation": ("both", "ablation")}
    return {name: float(np.isin(verdict[tested], words).mean()) for name, words in by.items()}
