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
from trainer.architectures.topk import TopKArchitecture, TopKConfig
from trainer.errors import RecipeError
from trainer.initialise import Start

ACTIVE_AT_START = 2
"""Times k features are active at the start."""
SMALL = 1e-2
"""Activations up to which the p-norm is smoothed: its slope at 0 is infinite."""


@dataclass(frozen=True, kw_only=True)
class StandardConfig(TopKConfig):
    name: str = "standard"
    k: int = 32
    """Active features a token that training aims at, on average."""
    sparsity: float = 1e-3
    """First weight of the penalty, a token's Σ activation^p."""
    control: float = 0.05
    """How fast that weight follows the number of active features: a token with twice k features multiplies it
    by 1 + control; 0 keeps the first weight.
    """
    last_norm: float = 1.0
    """p at the end; 1: ℓ1 throughout."""
    anneal_from: float = 0.3
    """Share of the steps after which p begins to fall."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._positive("sparsity", "last_norm")
        self._not_negative("control")
        if self.last_norm > 1 or not 0 <= self.anneal_from < 1:
            raise RecipeError("last_norm must be above 0 and at most 1, anneal_from from 0 to below 1.")


class Standard(TopKArchitecture):
    name = "standard"
    summary = "ReLU with an ℓ1 penalty that ends near k active features"
    config_type = StandardConfig
    config: StandardConfig
    precise = True

    def initialise(self, start: Start) -> None:
        """As TopK; biases at which ACTIVE_AT_START · k features are active."""
        super().initialise(start)
        self.first_bias = -self.level_of(ACTIVE_AT_START * self.config.k, start)
        self.parameters["b_enc"].fill_(self.first_bias)
        self.buffers["sparsity"] = torch.tensor(self.config.sparsity, device=self.device)
        self._active = torch.tensor(float(self.config.k))

    def select(self, x: Tensor) -> SparseCode:
        p = self.parameters
        return sparse.above(x, p["encoder"], p["b_enc"], torch.zeros_like(p["b_enc"]), buffer=self._scratch)

    def norm_at(self, step: Step) -> float:
        """p."""
        begin = self.config.anneal_from
        done = max(0.0, step.progress - begin) / (1 - begin)
        return 1 - (1 - self.config.last_norm) * done

    def losses(self, batch: TrainingBatch, made: Pass, step: Step) -> dict[str, Tensor]:
        """TopK's, and the penalty. As p falls, its weight keeps the penalty as large as ℓ1 would be."""
        losses, values, p = super().losses(batch, made, step), made.code.values, self.norm_at(step)
        self._active = (values.detach() > 0).sum() / len(batch.x)
        norm = values.sum()
        if p < 1:
            norm = ((values + SMALL) ** p - SMALL**p).sum()
            norm = norm * (values.detach().sum() / norm.detach().clamp_min(1e-12))
        losses["sparsity"] = self.buffers["sparsity"] * norm / len(batch.x)
        return losses

    def constrain_weights(self) -> None:
        """Unit norm; then the penalty's weight follows the number of active features."""
        super().constrain_weights()
        excess = (self.ranks.mean(self._active.clone()) / self.config.k - 1).clamp(-1, 1)
        self.buffers["sparsity"] *= 1 + self.config.control * excess.to(self.device)

    def restart(self, features: Tensor, samples: TrainingBatch) -> None:
        super().restart(features, samples)
        self.parameters["b_enc"][features] = self.first_bias

    def selection(self) -> selection.Selection:
        return selection.Threshold(torch.zeros(self.d_sae))
