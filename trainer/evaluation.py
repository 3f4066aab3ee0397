"""Held-out evaluation by METHOD.md §5: one streaming pass over passages gives `metrics.json` for every dictionary."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lexiscope import evidence, metrics
from lexiscope.anchors import ALIGNED, nearest_tokens
from lexiscope.checkpoint import AnchorFit
from lexiscope.dictionary import Dictionary
from lexiscope.language_model import LanguageModel, Patch
from lexiscope.text import Batch, batches
from lexiscope.tokens import Vocabulary


class Candidate(NamedTuple):
    """A dictionary to evaluate."""

    layer: int
    dictionary: Dictionary
    fit: AnchorFit
    seed: int


class _Sums:
    """Everything streamed for one candidate."""

    def __init__(self, candidate: Candidate, families: Tensor) -> None:
        self.candidate = candidate
        directions = candidate.dictionary.directions
        nearest = nearest_tokens(directions, candidate.fit.anchors, 1)
        self.names, self.cosines = nearest.tokens[:, 0], nearest.cosines[:, 0]
        self.reconstruction = metrics.ReconstructionSums(candidate.dictionary.d_in)
        self.firing = metrics.FiringSums(candidate.dictionary.d_sae)
        self.evidence = evidence.EvidenceCounts(self.names, families, evidence.matched_controls(candidate.fit.counts))
        self.passage_ce: list[tuple[float, int]] = []
        """(Σ CE(with x̂) − CE, tokens) of each passage"""
        self.ce = self.kl = self.agree = 0.0


@torch.inference_mode()
def evaluate(
    model: LanguageModel,
    candidates: Sequence[Candidate],
    passages: Sequence[np.ndarray],
    *,
    advance: Callable[[int], None] = lambda n: None,
) -> list[dict[str, Any]]:
    """`metrics.json` of each candidate, in order. Position 0 is neither encoded nor patched.

    Zero and mean ablation are patched once a layer, whatever the number of candidates there.
    """
    families = evidence.families(model.embedding, Vocabulary(model.tokenizer, model.vocab_size).folded())
    sums = [_Sums(candidate, families) for candidate in candidates]
    layers = sorted({candidate.layer for candidate in candidates})
    mean_of = {candidate.layer: candidate.fit.mean for candidate in candidates}
    base_ce, n = 0.0, 0
    ablated = {(layer, kind): 0.0 for layer in layers for kind in ("zero", "mean")}
    occurrences = torch.zeros(model.vocab_size, dtype=torch.long)
    for batch in batches(passages, tokens=2048):
        mask, following = batch.mask, batch.next_tokens
        scored = mask & (following >= 0)
        residuals = model.read(batch.tokens, layers)
        default = model.logits(batch.tokens)[scored]
        ce = metrics.cross_entropy(default, following[scored])
        base_ce += ce.sum().item()
        n += len(ce)
        occurrences += torch.bincount(batch.tokens[mask], minlength=model.vocab_size)
        for layer, kind in ablated:
            fill = torch.zeros(model.d_model) if kind == "zero" else mean_of[layer]
            logits = model.logits(batch.tokens, {layer: _fill(mask, fill)})[scored]
            ablated[layer, kind] += metrics.cross_entropy(logits, following[scored]).sum().item()
        where = evidence.places(batch.tokens, following, mask)
        for s in sums:
            _add(s, model, batch, where, residuals[s.candidate.layer], default, ce)
        advance(int(mask.sum()))
    return [_result(s, model, occurrences, base_ce / n, n, ablated) for s in sums]


def _fill(mask: Tensor, value: Tensor) -> Patch:
    return lambda residual: torch.where(mask[..., None], value, residual)


def _add(s: _Sums, model: LanguageModel, batch: Batch, where: evidence.Place, residual: Tensor, default: Tensor, ce: Tensor) -> None:
    mask, following = batch.mask, batch.next_tokens
    scored = mask & (following >= 0)
    dictionary, layer = s.candidate.dictionary, s.candidate.layer
    x = residual[mask]
    code = dictionary.encode(x)
    sparse, dense = dictionary.decode_sparse(code), dictionary.dense_part(x)
    s.reconstruction.add(x, sparse, dense, dictionary.b_dec, code)
    s.firing.add(code)
    s.evidence.add(code, where)
    patched = residual.clone()
    patched[mask] = sparse + dense + dictionary.b_dec
    lens = [model.unembed_residual(r[mask]).argmax(-1) for r in (residual, patched)]
    s.agree += (lens[0] == lens[1]).sum().item()
    logits = model.logits(batch.tokens, {layer: lambda _: patched})[scored]
    ce_sae = metrics.cross_entropy(logits, following[scored])
    s.ce += ce_sae.sum().item()
    s.kl += metrics.kl(default, logits).sum().item()
    row = scored.nonzero()[:, 0]
    difference = torch.bincount(row, ce_sae - ce, len(batch.tokens)).tolist()
    counts = torch.bincount(row, minlength=len(batch.tokens)).tolist()
    s.passage_ce += [(d, c) for d, c in zip(difference, counts, strict=True) if c]


def _result(
    s: _Sums, model: LanguageModel, occurrences: Tensor, ce: float, n: int, ablated: dict[tuple[int, str], float]
) -> dict[str, Any]:
    dictionary, fit, layer = s.candidate.dictionary, s.candidate.fit, s.candidate.layer
    live, firings = s.firing.live, s.firing.firings
    energy = s.firing.squares * dictionary.W_dec.square().sum(-1)
    aligned = metrics.alignment(s.cosines, live, firings, energy)
    directions = dictionary.directions
    embedding = nearest_tokens(directions[live], model.embedding - model.embedding.mean(0), 1).cosines[:, 0]
    found = s.evidence.result(live)
    weight = (firings * live).double()

    def mean_of(shares: Tensor) -> float:
        return float((shares * weight).sum() / weight.sum()) if weight.sum() else 0.0

    ce_sae = s.ce / n
    differences = torch.tensor(s.passage_ce, dtype=torch.float64)
    low, high = metrics.bootstrap_mean(differences[:, 0], differences[:, 1])
    seen = fit.counts / fit.counts.sum() >= metrics.LIVE_RATE
    own = torch.where(fit.assigned >= 0, fit.assigned, s.names)
    return {
        "protocol": "held-out passages; position 0 neither encoded nor patched",
        "tokens": s.reconstruction.n,
        "seed": s.candidate.seed,
        "l0": s.reconstruction.l0,
        "fve": s.reconstruction.fve,
        "nmse": s.reconstruction.nmse,
        "ce": ce,
        "ce_sae": ce_sae,
        "delta_ce": ce_sae - ce,
        "delta_ce_ci": [low, high],
        "kl": s.kl / n,
        "ce_recovered_zero": metrics.ce_recovered(ce, ce_sae, ablated[layer, "zero"] / n),
        "ce_recovered_mean": metrics.ce_recovered(ce, ce_sae, ablated[layer, "mean"] / n),
        "logit_lens_agreement": s.agree / s.reconstruction.n,
        "d_sae": dictionary.d_sae,
        "n_live": int(live.sum()),
        "dead_share": 1 - live.float().mean().item(),
        "vocab_seen": seen.float().mean().item(),
        "dead_share_seen": metrics.weighted_share(~live, seen[own]),
        "dense_share": s.reconstruction.dense_share,
        "lookup_share": 0.0,
        "aligned_all": aligned.all,
        "aligned_live": aligned.live,
        "aligned_firing": aligned.firing,
        "aligned_energy": aligned.energy,
        "aligned_live_embedding": (embedding >= ALIGNED).float().mean().item() if len(embedding) else 0.0,
        "coverage": metrics.coverage(s.names, live & (s.cosines >= ALIGNED), occurrences),
        "name_is_assigned": metrics.weighted_share(s.names == fit.assigned, (fit.assigned >= 0) & live),
        "reads_precision": mean_of(found.share["here"]),
        "reads_null": mean_of(found.null["here"]),
        "reads_family": mean_of(found.share["family"]),
        "reads_family_null": mean_of(found.null["family"]),
        "predicts_precision": mean_of(found.share["predicts"]),
        "predicts_null": mean_of(found.null["predicts"]),
        "supported_live": metrics.weighted_share(found.supported, live),
        "supported_firing": metrics.weighted_share(found.supported, weight),
    }
