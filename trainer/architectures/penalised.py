"""What architectures share whose sparsity comes from a penalty: its weight follows the number of active
features, which ends near k.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.activations.passages import TrainingBatch
from trainer.architectures.base import Pass
from trainer.architectures.topk import TopKArchitecture, TopKConfig
from trainer.initialise import Start

ACTIVE_AT_START = 2
"""Times k features are active at the start."""


@dataclass(frozen=True, kw_only=True)
class PenalisedConfig(TopKConfig):
    k: int = 32
    """Active features a token that training aims at, on average."""
    sparsity: float = 1e-3
    """First weight of the penalty."""
    control: float = 0.05
    """How fast that weight follows the number of active features: a token with twice k features multiplies it
    by 1 + control; 0 keeps the first weight.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self._positive("sparsity")
        self._not_negative("control")


class Penalised(TopKArchitecture):
    config: PenalisedConfig
    precise = True

    def initialise(self, start: Start) -> None:
        """As TopK; biases at which ACTIVE_AT_START · k features are active."""
        super().initialise(start)
        active = ACTIVE_AT_START * self.config.k
        self.first_bias = -self.level_of(active // 2 if self.signed else active, start)
        self.parameters["b_enc"].fill_(self.first_bias)
        self.buffers["sparsity"] = torch.tensor(self.config.sparsity, device=self.device)
        self._active = torch.tensor(float(self.config.k))

    def penalty(self, size: Tensor, made: Pass, batch: TrainingBatch) -> Tensor:
        """The term of the loss, from the batch's `size`; counts the active features for the next weight."""
        self._active = (made.code.values.detach() != 0).sum() / len(batch.x)
        return self.buffers["sparsity"] * size / len(batch.x)

    def constrain_weights(self) -> None:
        """Unit norm; then the penalty's weight follows the number of active features."""
        super().constrain_weights()
        excess = (self.ranks.mean(self._active.clone()) / self.config.k - 1).clamp(-1, 1)
        self.buffers["sparsity"] *= 1 + self.config.control * excess.to(self.device)

    def restart(self, features: Tensor, samples: TrainingBatch) -> None:
        super().restart(features, samples)
        self.parameters["b_enc"][features] = self.first_bias
