"""Standard: ReLU, with an ℓ1 penalty on the activations; decoder rows have norm 1. With `last_norm` below
1 the penalty is the p-norm, p falling from 1 to it: p-annealing (Karvonen et al. 2024, arXiv 2408.00113).

The penalty's weight follows the number of active features, which ends near k.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from lexiscope import selection
from lexiscope.sparse_code import SparseCode
from trainer import sparse
from trainer.activations.passages import TrainingBatch
from trainer.architectures.base import Pass, Step
from trainer.architectures.penalised import Penalised, PenalisedConfig
from trainer.errors import RecipeError

SMALL = 1e-2
"""Activations up to which the p-norm is smoothed: its slope at 0 is infinite."""


@dataclass(frozen=True, kw_only=True)
class StandardConfig(PenalisedConfig):
    name: str = "standard"
    sparsity: float = 1e-3
    """First weight of the penalty, a token's Σ activation^p."""
    last_norm: float = 1.0
    """p at the end; 1: ℓ1 throughout."""
    anneal_from: float = 0.3
    """Share of the steps after which p begins to fall."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._positive("last_norm")
        if self.last_norm > 1 or not 0 <= self.anneal_from < 1:
            raise RecipeError("last_norm must be above 0 and at most 1, anneal_from from 0 to below 1.")


class Standard(Penalised):
    name = "standard"
    summary = "ReLU with an ℓ1 penalty that ends near k active features"
    config_type = StandardConfig
    config: StandardConfig

    def select(self, x: Tensor) -> SparseCode:
        p = self.parameters
        return sparse.above(x, p["encoder"], p["b_enc"], torch.zeros_like(p["b_enc"]), scratch=self._scratch)

    def norm_at(self, step: Step) -> float:
        """p."""
        begin = self.config.anneal_from
        done = max(0.0, step.progress - begin) / (1 - begin)
        return 1 - (1 - self.config.last_norm) * done

    def losses(self, batch: TrainingBatch, made: Pass, step: Step) -> dict[str, Tensor]:
        """TopK's, and the penalty. As p falls, its weight keeps the penalty as large as ℓ1 would be."""
        losses, values, p = super().losses(batch, made, step), made.code.values, self.norm_at(step)
        norm = values.sum()
        if p < 1:
            norm = ((values + SMALL) ** p - SMALL**p).sum()
            norm = norm * (values.detach().sum() / norm.detach().clamp_min(1e-12))
        losses["sparsity"] = self.penalty(norm, made, batch)
        return losses

    def selection(self) -> selection.Selection:
        return selection.Threshold(torch.zeros(self.d_sae))
