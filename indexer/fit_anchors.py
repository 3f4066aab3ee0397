"""Anchors for dictionaries that bring none: fitted from a text in one streaming pass of the model
(docs/method.md#anchor-sets).

In: a model, layers and passages. Out: an `AnchorFit` a layer, whose anchors name any dictionary of that
layer. Memory is bounded by vocabulary and layers, not by the text.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from indexer.counts.state import IndexingError
from lexiscope.anchor_sets import ANCHOR_SETS, DESCRIPTIONS, Material
from lexiscope.anchors import OUTLIER, TokenSums
from lexiscope.checkpoint import AnchorFit
from lexiscope.language_model import LanguageModel
from lexiscope.text import Batch, batches

BATCH_TOKENS = 4096
"""Padded tokens of a batch. The first batch sets the norm above which a position is an outlier, and its mean
is subtracted before summing, for precision.
"""
AROUND = ("following", "previous")


@torch.inference_mode()
def fit_anchors(
    model: LanguageModel,
    layers: Sequence[int],
    passages: Iterable[np.ndarray],
    *,
    anchors: str = "current",
    seed: int = 0,
    batch_tokens: int = BATCH_TOKENS,
) -> dict[int, AnchorFit]:
    """The anchors of each layer, of one of ANCHOR_SETS; `seed` is the controls'. No row is assigned an
    anchor.

    Position 0 and positions of outlying norm are left out. Raises IndexingError: no such set, or one that
    this model cannot have; activations that hold NaN or Inf.
    """
    if anchors not in ANCHOR_SETS:
        raise IndexingError(f"There is no anchor set '{anchors}'; there are {', '.join(ANCHOR_SETS)}.")
    if anchors in ("embedding", "centred") and model.embedding.shape[1] != model.d_model:
        raise IndexingError(
            f"{model.id} embeds tokens in width {model.embedding.shape[1]} and its residual stream has "
            f"{model.d_model}: anchors '{anchors}' do not exist for it."
        )
    model.check_layers(layers)
    gathered = {layer: _Layer(model.vocab_size, model.d_model, anchors) for layer in layers}
    for batch in batches(passages, tokens=batch_tokens):
        residuals = model.read(batch.tokens.to(model.device), list(layers), fast=True)
        for layer in layers:
            x = residuals[layer].cpu()[batch.mask].float()
            if not torch.isfinite(x).all():
                raise IndexingError(f"The activations of {model.id} at layer {layer} hold NaN or Inf.")
            gathered[layer].add(batch, x)
    return {layer: gathered[layer].fit(model, layer, seed) for layer in layers}


class _Layer:
    """What one layer's anchors are made from, summed over the text."""

    def __init__(self, vocab_size: int, d_in: int, anchors: str) -> None:
        self.anchors = anchors
        self.sums = {
            which: TokenSums(vocab_size, d_in)
            for which in ("current", *((anchors,) if anchors in AROUND else ()))
        }
        self.products = torch.zeros(d_in, d_in) if anchors == "unembedding" else None
        self.shift: Tensor | None = None
        self.largest = 0.0

    def add(self, batch: Batch, x: Tensor) -> None:
        """x [n, d_in] at the masked positions of the batch."""
        norms = x.norm(dim=-1)
        if self.shift is None:
            self.largest = OUTLIER * norms.median().item()
            self.shift = x[norms <= self.largest].mean(0)
        kept = norms <= self.largest
        around = {
            "current": batch.tokens[batch.mask],
            "following": batch.next_tokens[batch.mask],
            "previous": batch.tokens.roll(1, 1)[batch.mask],
        }
        x = x - self.shift
        for which, sums in self.sums.items():
            rows = kept & (around[which] >= 0)
            sums.add(around[which][rows], x[rows])
        if self.products is not None:
            self.products += x[kept].T @ x[kept]

    def fit(self, model: LanguageModel, layer: int, seed: int) -> AnchorFit:
        assert self.shift is not None  # passages that hold nothing raise TextError
        current = self.sums["current"]
        n = current.counts.sum()
        rest = current.sums.sum(0) / n
        mean = self.shift + rest
        for sums in self.sums.values():
            sums.sums -= sums.counts[:, None] * rest
        covariance = (
            torch.zeros(0, 0) if self.products is None else self.products / n - torch.outer(rest, rest)
        )
        material = Material(
            model.embedding.cpu(),
            current,
            covariance,
            following=self.sums.get("following"),
            previous=self.sums.get("previous"),
            unembedding=model.unembedding().cpu() if self.anchors == "unembedding" else None,
            unigram=model.unigram_states(layer).cpu().float() if self.anchors == "unigram" else None,
            seed=seed,
        )
        kind = f"{DESCRIPTIONS[self.anchors]}, fitted on {int(n):,} tokens of the indexed text"
        return AnchorFit(
            ANCHOR_SETS[self.anchors](material),
            current.counts,
            mean,
            torch.empty(0, dtype=torch.long),
            kind=kind,
        )
