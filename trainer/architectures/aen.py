"""AEN-SAE: ReLU with an adaptive elastic net, an ℓ1 penalty whose weight is smaller for features that are
active more, and a ridge that keeps the code stable, in place of restarts and AuxK ("Feature Starvation as
Geometric Instability in Sparse Autoencoders", 2026, arXiv 2605.05341, as in the authors' code).

A feature's weight is (the mean activity of the most active hundredth / its own)^gamma, between 0.1 and 10. As
in `standard`, the penalty follows the number of active features, which ends near k.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from lexiscope.sparse_code import SparseCode
from trainer.activations.passages import TrainingBatch
from trainer.architectures.base import Pass, Step
from trainer.architectures.standard import Standard, StandardConfig
from trainer.architectures.topk import TopKArchitecture
from trainer.errors import RecipeError
from trainer.initialise import Start
from trainer.sparse import gathered

LEAST, MOST = 0.1, 10.0
"""Bounds of a feature's weight."""
MOST_ACTIVE = 0.01
"""Share of the features whose mean activity the others are compared with."""


@dataclass(frozen=True, kw_only=True)
class AENConfig(StandardConfig):
    name: str = "aen"
    restarts: int = 0
    aux_k: int = 0
    gamma: float = 0.5
    """How much weights differ; 0: an elastic net that does not adapt."""
    ridge: float = 0.05
    """Weight of the squared activations, as a share of the ℓ1 penalty's."""
    adapt_from: float = 0.2
    """Share of the steps after which weights begin to adapt; they have their full effect a twentieth of the
    steps later.
    """
    activity_rate: float = 0.02
    """How much one batch moves a running activity, once it is the mean of 1 / activity_rate batches."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._not_negative("gamma", "ridge", "adapt_from")
        self._positive("activity_rate")
        if self.last_norm != 1:
            raise RecipeError("aen has an ℓ1 penalty: set last_norm=1.")


class AEN(Standard):
    name = "aen"
    summary = "ReLU with an adaptive elastic net: ℓ1 by a feature's activity, and a ridge"
    config_type = AENConfig
    config: AENConfig

    def initialise(self, start: Start) -> None:
        super().initialise(start)
        self.buffers["activity"] = torch.zeros(self.d_sae, device=self.device)
        self.buffers["batches"] = torch.zeros((), device=self.device)
        self._active_now = self.buffers["activity"]

    def weights(self, step: Step) -> Tensor:
        """[d_sae] of the ℓ1 penalty."""
        activity = self.buffers["activity"].clamp_min(1e-5)
        top = activity.topk(max(1, int(MOST_ACTIVE * self.d_sae))).values.mean()
        own = (top / activity).pow(self.config.gamma).clamp(LEAST, MOST)
        effect = min(max((step.progress - self.config.adapt_from) * 20, 0.0), 1.0)
        return 1 + (own - 1) * effect

    def losses(self, batch: TrainingBatch, made: Pass, step: Step) -> dict[str, Tensor]:
        """TopK's, and the elastic net."""
        losses, code = TopKArchitecture.losses(self, batch, made, step), made.code
        self._active_now = self._activity(code)
        size = (gathered(self.weights(step), code.indices) * code.values).sum()
        losses["sparsity"] = self.penalty(size + self.config.ridge * code.values.square().sum(), made, batch)
        return losses

    def _activity(self, code: SparseCode) -> Tensor:
        """[d_sae] the mean activation over the batch."""
        total = torch.zeros(self.d_sae, device=self.device)
        values = code.values.detach().reshape(-1)
        return total.index_add_(0, code.indices.reshape(-1), values) / len(code.values)

    def constrain_weights(self) -> None:
        """As `standard`; the running activities take in the batch."""
        super().constrain_weights()
        self.buffers["batches"] += 1
        rate = torch.clamp(1 / self.buffers["batches"], min=self.config.activity_rate)
        self.buffers["activity"].lerp_(self.ranks.mean(self._active_now.clone()), rate)
