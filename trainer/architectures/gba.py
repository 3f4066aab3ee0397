"""GBA: no penalty and no k, but a threshold for each feature that adapts until the feature fires as often as
its group is to (Chen et al. 2025, arXiv 2506.14002). The groups' target frequencies halve from one to the
next.

A feature that fires more often than its target has its threshold raised by a share of its largest activation;
one that does not fire has it lowered by a share of its group's mean largest activation, not below 0. The
activation is the pre-activation above the threshold, undiminished. The paper's bias is the negative
threshold, between −1 and 0 for inputs of norm 1; here inputs have norm √d.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from lexiscope import selection
from lexiscope.sparse_code import SparseCode
from trainer import sparse
from trainer.activations.passages import TrainingBatch
from trainer.architectures.topk import TopKArchitecture, TopKConfig
from trainer.errors import RecipeError
from trainer.initialise import Start

SILENT = 1e-2
"""A feature counts as not firing below this share of its target."""


@dataclass(frozen=True, kw_only=True)
class GBAConfig(TopKConfig):
    name: str = "gba"
    k: int = 32
    """Active features a token where every feature meets its target frequency."""
    restarts: int = 0
    aux_k: int = 0
    groups: int = 10
    """Groups of features; the targets of neighbouring ones differ by a factor of 2."""
    rate: float = 0.01
    """How far a threshold moves in a step, as a share of the largest activation."""
    frequency_rate: float = 0.1
    """How much one batch moves a running frequency, which starts at the target."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._positive("groups", "rate", "frequency_rate")
        if max(self.rate, self.frequency_rate) > 1:
            raise RecipeError("rate and frequency_rate are shares: they must not be above 1.")

    def check(self, *, d_in: int, d_sae: int, embedding: tuple[int, ...]) -> None:
        super().check(d_in=d_in, d_sae=d_sae, embedding=embedding)
        if self.groups > d_sae:
            raise RecipeError(f"groups is {self.groups}: there are {d_sae:,} features.")


class GBA(TopKArchitecture):
    name = "gba"
    summary = "thresholds adapt until features fire as often as their group is to"
    config_type = GBAConfig
    config: GBAConfig
    precise = True

    def initialise(self, start: Start) -> None:
        """As TopK; thresholds at which k features are active. Neighbouring features are of other groups."""
        super().initialise(start)
        level = self.level_of(self.config.k, start)
        self.first_threshold = level
        self.group = torch.arange(self.d_sae, device=self.device) % self.config.groups
        halving = 0.5 ** self.group.float()
        self.target = halving * self.config.k / halving.sum()
        """[d_sae] the frequency at which each feature is to fire; their sum is k"""
        self.most = start.d_in**0.5
        self.buffers["threshold"] = torch.full((self.d_sae,), level, device=self.device)
        self.buffers["frequency"] = self.target.clone()
        self._fired = self.target

    def select(self, x: Tensor) -> SparseCode:
        p, threshold = self.parameters, self.buffers["threshold"]
        code = sparse.above(x, p["encoder"], p["b_enc"], threshold, scratch=self._scratch)
        fires = code.values != 0
        features = code.indices[fires]
        self._fired = torch.bincount(features, minlength=self.d_sae) / len(x)
        excess = (code.values[fires] - threshold[features]).float()
        self._largest = torch.zeros_like(threshold).scatter_reduce(0, features, excess, "amax")
        return code

    def constrain_gradients(self) -> None:
        """The threshold is in place of a bias."""
        super().constrain_gradients()
        self.gradient("b_enc").zero_()

    def constrain_weights(self) -> None:
        """Unit norm; then the thresholds adapt."""
        super().constrain_weights()
        frequency, threshold = self.buffers["frequency"], self.buffers["threshold"]
        frequency.lerp_(self.ranks.mean(self._fired.clone()), self.config.frequency_rate)
        largest = self.ranks.mean(self._largest.clone())
        active = (largest > 0).float()
        n = torch.zeros(self.config.groups, device=self.device).index_add(0, self.group, active)
        usual = torch.zeros_like(n).index_add(0, self.group, largest) / n.clamp_min(1)
        raised = threshold + self.config.rate * largest
        lowered = threshold - self.config.rate * usual[self.group]
        silent = frequency < self.target * SILENT
        moved = torch.where(frequency > self.target, raised, torch.where(silent, lowered, threshold))
        threshold.copy_(moved.clamp(0, self.most))

    def restart(self, features: Tensor, samples: TrainingBatch) -> None:
        super().restart(features, samples)
        self.buffers["threshold"][features] = self.first_threshold

    def selection(self) -> selection.Selection:
        return selection.Threshold(self.buffers["threshold"].cpu().clone())
