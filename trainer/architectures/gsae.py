"""g-SAE: TopK by activation and by what the activation does, its product with the gradient of the model's
loss along the decoder row (Olmo et al. 2024, arXiv 2411.10397).

A feature's score is z · (1 + beta · |row · g| / r), with its pre-activation z, the gradient g of the summed
next-token losses of the passages at the position, and the mean r of |row · g| over rows of random directions,
so that beta has no unit (the division is ours). The code holds z. Inference has no gradient, and selects by
z. A batch is of whole passages, each of which is run forward and back.
"""

from dataclasses import dataclass
from math import pi, sqrt
from typing import Literal

import torch
from torch import Tensor

from lexiscope.sparse_code import SparseCode
from trainer.activations.passages import TrainingBatch
from trainer.architectures.base import Architecture, Gradients, Step
from trainer.architectures.topk import ENCODED, TopKArchitecture, TopKConfig
from trainer.errors import RecipeError
from trainer.objectives.model_terms import loss_gradient


@dataclass(frozen=True, kw_only=True)
class GradientTopKConfig(TopKConfig):
    name: str = "g-sae"
    batch: int = 8
    batch_of: Literal["tokens", "passages"] = "passages"
    beta: float = 1.0
    """How much the gradient counts beside the activation; 0: TopK."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._needs_passages()
        self._not_negative("beta")

    def check_other_target(self, what: str) -> None:
        raise RecipeError(f"{self.name} takes the gradient at a residual stream: it cannot be {what}.")


class GradientTopK(TopKArchitecture):
    name = "g-sae"
    summary = "TopK by activation and by its product with the gradient of the model's loss"
    config_type = GradientTopKConfig
    config: GradientTopKConfig
    by_batch = True
    _slope: Tensor | None = None
    """[n, d] the gradient of the batch, while it is trained on"""

    def gradients(self, batch: TrainingBatch, step: Step) -> Gradients:
        """TopK's, with the code selected by the gradient too. Raises RecipeError as `loss_gradient`."""
        self._slope = loss_gradient(self, batch)
        try:
            return Architecture.gradients(self, batch, step)
        finally:
            self._slope = None

    def select(self, x: Tensor) -> SparseCode:
        if self._slope is None:
            return super().select(x)
        parts = zip(x.split(ENCODED), self._slope.split(ENCODED), strict=True)
        found = [self._selected(part, slope) for part, slope in parts]
        return SparseCode(*(torch.cat(columns) for columns in zip(*found, strict=True)))

    def _selected(self, x: Tensor, slope: Tensor) -> SparseCode:
        p = self.parameters
        z = torch.addmm(p["b_enc"], x, p["encoder"].T).relu()
        along = (slope @ p["decoder"].T).abs()
        usual = slope.norm(dim=-1, keepdim=True) * sqrt(2 / (pi * slope.shape[1]))
        score = z * (1 + self.config.beta * along / usual.clamp_min(1e-12))
        indices = score.topk(self.config.k, dim=-1).indices
        return SparseCode(z.gather(-1, indices), indices)
