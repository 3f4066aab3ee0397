"""OrtSAE: BatchTopK with a penalty on decoder rows that point the same way, so that features are absorbed and
composed less (arXiv 2509.22033).
"""

from dataclasses import dataclass

from torch import Tensor

from trainer import objectives
from trainer.activations.passages import TrainingBatch
from trainer.architectures.base import Pass, Step
from trainer.architectures.batchtopk import BatchTopK, BatchTopKConfig


@dataclass(frozen=True, kw_only=True)
class OrtSAEConfig(BatchTopKConfig):
    name: str = "ortsae"
    gamma: float = 0.25
    """Weight of the mean, over features, of the squared largest cosine to another row."""
    penalty_every: int = 5
    """Steps between two that take the penalty into account, with as many times its weight."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._positive("penalty_every")
        self._not_negative("gamma")


class OrtSAE(BatchTopK):
    name = "ortsae"
    summary = "BatchTopK with a penalty on decoder rows of a high cosine"
    config_type = OrtSAEConfig
    config: OrtSAEConfig

    def losses(self, batch: TrainingBatch, made: Pass, step: Step) -> dict[str, Tensor]:
        losses, config = super().losses(batch, made, step), self.config
        if step.number % config.penalty_every == 0:
            penalty = objectives.TERMS["orthogonality"](self, batch, made, step)
            losses["orthogonality"] = config.gamma * config.penalty_every * penalty
        return losses
