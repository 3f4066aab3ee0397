"""MetaSAE: BatchTopK beside a small dictionary of its own decoder rows, and a penalty on rows that this one
reconstructs well, so that features are not composed of others ("MetaSAEs: Joint Training with a
Decomposability Penalty", 2026).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lexiscope.sparse_code import top_k
from trainer import objectives, sparse
from trainer.activations.passages import TrainingBatch
from trainer.architectures.base import Pass, Step
from trainer.architectures.batchtopk import BatchTopK, BatchTopKConfig
from trainer.errors import RecipeError
from trainer.initialise import Start


@dataclass(frozen=True, kw_only=True)
class MetaSAEConfig(BatchTopKConfig):
    name: str = "metasae"
    meta_width: int = 0
    """Features of the small dictionary; a quarter of the width unless given."""
    meta_k: int = 4
    """Its active features a row."""
    meta_rows: int = 4096
    """Decoder rows that a step takes, drawn anew."""
    penalty: float = 1e-2
    """Weight of the mean over rows of exp(−error / spread); error: squared distance to the reconstruction."""
    spread: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._positive("meta_k", "meta_rows", "spread")
        self._not_negative("meta_width", "penalty")
        if 0 < self.meta_width < self.meta_k:
            raise RecipeError(f"meta_k {self.meta_k} is more than meta_width, {self.meta_width}.")


class MetaSAE(BatchTopK):
    name = "metasae"
    summary = "BatchTopK with a penalty on rows that a small dictionary of its rows reconstructs"
    config_type = MetaSAEConfig
    config: MetaSAEConfig

    def initialise(self, start: Start) -> None:
        """The small dictionary starts at some of the rows."""
        super().initialise(start)
        width = self.config.meta_width or max(self.config.meta_k, self.d_sae // 4)
        picked = torch.randint(self.d_sae, (width,), generator=start.random)
        rows = self.parameters["decoder"].detach()[picked.to(self.device)]
        self.parameters["meta_encoder"] = 0.5 * rows
        self.parameters["meta_bias"] = torch.zeros(width, device=self.device)
        self.parameters["meta_decoder"] = rows.clone()

    def losses(self, batch: TrainingBatch, made: Pass, step: Step) -> dict[str, Tensor]:
        """BatchTopK's; the small dictionary's error, whose gradient is its own; the penalty, whose gradient
        is the rows'.
        """
        losses, config, p = super().losses(batch, made, step), self.config, self.parameters
        random = torch.Generator().manual_seed(step.number)
        picked = torch.randperm(self.d_sae, generator=random)[: config.meta_rows].to(self.device)
        rows = F.normalize(p["decoder"].index_select(0, picked), dim=-1)
        found = self._reconstructed(rows.detach())
        losses["meta"] = objectives.mse(found, rows.detach()) * rows.shape[1]
        error = (rows - found.detach()).square().sum(-1)
        losses["decomposable"] = config.penalty * (-error / config.spread).exp().mean()
        return losses

    def _reconstructed(self, rows: Tensor) -> Tensor:
        """[m, d] by the small dictionary, of rows [m, d]."""
        p = self.parameters
        with torch.no_grad():
            selected = top_k(torch.addmm(p["meta_bias"], rows, p["meta_encoder"].T), self.config.meta_k)
        code = sparse.encode(rows, p["meta_encoder"], p["meta_bias"], selected)
        return sparse.decode(code, p["meta_decoder"])
