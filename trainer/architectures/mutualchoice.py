"""Mutual Choice with aux_zipf: BatchTopK, whose budget goes to any pair of token and feature, and AuxK for
the features that fire much less than Zipf's law lets expect at their rank, dead ones among them (Ayonrinde
2024, arXiv 2411.02124).

The law is fitted to the densities of the more frequent half of the features that fire, as a line of log
density against log rank: it holds but at the lower end, where features are dying. How it is fitted, and how
far below it a feature counts as dying, are ours.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from lexiscope.sparse_code import SparseCode
from trainer.architectures.batchtopk import BatchTopK, BatchTopKConfig
from trainer.errors import RecipeError
from trainer.initialise import Start


@dataclass(frozen=True, kw_only=True)
class MutualChoiceConfig(BatchTopKConfig):
    name: str = "mutualchoice"
    dying: float = 0.1
    """A feature is dying whose density is below this share of what Zipf's law expects."""
    density_rate: float = 0.05
    """How much one batch moves a running density, once it is the mean of 1 / density_rate batches."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._positive("dying", "density_rate")
        if max(self.dying, self.density_rate) > 1:
            raise RecipeError("dying and density_rate are shares: they must not be above 1.")


class MutualChoice(BatchTopK):
    name = "mutualchoice"
    summary = "BatchTopK with AuxK for features that fire much less than Zipf's law expects"
    config_type = MutualChoiceConfig
    config: MutualChoiceConfig

    def initialise(self, start: Start) -> None:
        super().initialise(start)
        self.buffers["density"] = torch.zeros(self.d_sae, device=self.device)
        self._density = self.buffers["density"]

    def select(self, x: Tensor) -> SparseCode:
        code = super().select(x)
        fired = code.indices[code.values != 0]
        self._density = torch.bincount(fired, minlength=self.d_sae) / len(x)
        return code

    def _silent_features(self, code: SparseCode) -> Tensor:
        """[m] the dying features; none until their densities are known."""
        if not self.config.aux_k or self.buffers["batches"] < self.config.aux_after:
            return self.silent.new_empty(0).long()
        density = self.buffers["density"]
        return (density < self.config.dying * zipf(density)).nonzero().squeeze(1)

    def constrain_weights(self) -> None:
        """As BatchTopK; the running densities take in the batch too."""
        super().constrain_weights()
        rate = torch.clamp(1 / self.buffers["batches"], min=self.config.density_rate)
        self.buffers["density"].lerp_(self.ranks.mean(self._density.clone()), rate)


def zipf(density: Tensor) -> Tensor:
    """[d_sae] the density that Zipf's law expects of each feature at its rank, from densities [d_sae]."""
    ordered = density.sort(descending=True)
    firing = int((ordered.values > 0).sum())
    rank = torch.arange(1, len(density) + 1, device=density.device).log()
    half = max(2, firing // 2)
    if firing < half:
        return torch.zeros_like(density)
    x, y = rank[:half], ordered.values[:half].log()
    slope = ((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum()
    line = (y.mean() + slope * (rank - x.mean())).exp()
    return torch.empty_like(density).scatter(0, ordered.indices, line)
