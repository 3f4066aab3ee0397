"""End-to-end dictionaries: trained on what the reconstruction changes in the model's output (KL to its own),
not on the reconstruction; with `downstream`, also on the residual streams of the later layers (Braun et al.
2024, arXiv 2405.12241). TopK in place of that paper's ℓ1. A batch is of whole passages.
"""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from trainer import objectives
from trainer.activations.passages import TrainingBatch
from trainer.architectures.base import Pass, Step
from trainer.architectures.topk import TopKArchitecture, TopKConfig
from trainer.errors import RecipeError
from trainer.objectives.model_terms import later_error, run_patched


@dataclass(frozen=True, kw_only=True)
class EndToEndConfig(TopKConfig):
    name: str = "e2e"
    batch: int = 8
    batch_of: Literal["tokens", "passages"] = "passages"
    restarts: int = 0
    aux_k: int = 0
    kl: float = 1.0
    """Weight of the KL divergence of the patched model's output from its own, nats a position."""
    downstream: float = 0.0
    """Weight of the later layers' squared error over their variance, mean over these layers."""
    local: float = 0.0
    """Weight of the mean squared error of the reconstruction itself."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._needs_passages()
        self._positive("kl")
        self._not_negative("downstream", "local")
        if self.patience and not self.local:
            raise RecipeError(
                f"patience is {self.patience}: it goes by the reconstruction's error, which {self.name} "
                "trains on only with local above 0."
            )

    @property
    def needs_later_layers(self) -> bool:
        return self.downstream > 0 or super().needs_later_layers

    def check_other_target(self, what: str) -> None:
        raise RecipeError(f"{self.name} patches a residual stream into the model: it cannot be {what}.")


class EndToEnd(TopKArchitecture):
    name = "e2e"
    summary = "TopK trained on the model's output (and later layers), not on the reconstruction"
    config_type = EndToEndConfig
    config: EndToEndConfig

    def losses(self, batch: TrainingBatch, made: Pass, step: Step) -> dict[str, Tensor]:
        """Raises RecipeError as `run_patched`."""
        run, config = run_patched(self, batch, made), self.config
        losses = {"kl": config.kl * run.divergence.mean()}
        if config.downstream:
            losses["downstream"] = config.downstream * later_error(run)
        if config.local:
            losses["local"] = config.local * objectives.mse(made.output, batch.target)
        silent = super().losses(batch, made, step)
        if "aux_k" in silent:
            losses["aux_k"] = silent["aux_k"]
        return losses
