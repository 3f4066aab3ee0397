"""JumpReLU: each feature has a threshold of its own, trained with straight-through estimates of its gradient
(arXiv 2407.14435). The mean number of active features is held near k by the quadratic term of that paper's
appendix.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lexiscope import selection
from lexiscope.sparse_code import SparseCode
from trainer import sparse
from trainer.activations.passages import TrainingBatch
from trainer.architectures.base import Pass, Step
from trainer.architectures.topk import TopKArchitecture, TopKConfig
from trainer.initialise import Start

ACTIVE_AT_START = 2
"""Times k features are active at the start."""
LOWEST = 1e-3
"""The first threshold, at least."""


@dataclass(frozen=True, kw_only=True)
class JumpReLUConfig(TopKConfig):
    name: str = "jumprelu"
    k: int = 32
    """Active features a token that training aims at, on average."""
    bandwidth: float = 0.5
    """Width of the kernel that estimates the gradients of thresholds, in units of the first threshold."""
    threshold_rate: float = 30.0
    """Learning rate of the thresholds' logarithms, as a multiple of the others': at 1, a run of a few hundred
    steps ends before they have moved by a third, with several times k features active.
    """
    sparsity: float = 1.0
    """Weight of (active features / k − 1)²."""
    warm_up: float = 0.1
    """Share of the steps over which that weight rises to its value."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._positive("bandwidth", "threshold_rate", "warm_up")
        self._not_negative("sparsity")


class JumpReLU(TopKArchitecture):
    name = "jumprelu"
    summary = "a trained threshold for each feature"
    config_type = JumpReLUConfig
    config: JumpReLUConfig
    feature_parameters = (*TopKArchitecture.feature_parameters, "slow_log_threshold")
    precise = True

    def initialise(self, start: Start) -> None:
        """As TopK; one threshold for all features, above which ACTIVE_AT_START · k are active."""
        super().initialise(start)
        level = max(self.level_of(ACTIVE_AT_START * self.config.k, start), LOWEST)
        self.first_log = math.log(level) / self.config.threshold_rate
        self.bandwidth = self.config.bandwidth * level
        self.parameters["slow_log_threshold"] = torch.full((self.d_sae,), self.first_log, device=self.device)

    def forward(self, x: Tensor) -> Pass:
        """The code's entries are the active features, and those within half a bandwidth below their
        threshold: these have value 0, but their threshold has a gradient.
        """
        p, bandwidth = self.parameters, self.bandwidth
        with torch.no_grad():
            lowest = (self.threshold() - bandwidth / 2).clamp_min(0)
            selected = sparse.above(x, p["encoder"], p["b_enc"], lowest, scratch=self._scratch)
        near = selected.values > 0
        pre = sparse.encode(x, p["encoder"], p["b_enc"], selected)
        self._pre, self._near = pre.values, near
        values: Tensor = _Jump.apply(pre.values, self._thresholds(pre.indices), bandwidth, near)
        code = SparseCode(values, pre.indices)
        sparse_part = sparse.decode(code, p["decoder"], unit_rows=True, wanted=near)
        return Pass(code, sparse_part + x @ p["dense_in"] @ p["dense_out"] + p["b_dec"])

    def losses(self, batch: TrainingBatch, made: Pass, step: Step) -> dict[str, Tensor]:
        """TopK's, and the sparsity term; its gradient is that of the mean over all ranks."""
        losses, k = super().losses(batch, made, step), self.config.k
        thresholds = self._thresholds(made.code.indices)
        jumps: Tensor = _Step.apply(self._pre.detach(), thresholds, self.bandwidth, self._near)
        active = jumps.sum() / len(batch.x)
        excess = self.ranks.mean(active.detach().clone()) / k - 1
        weight = self.config.sparsity * min(1.0, step.progress / self.config.warm_up)
        losses["sparsity"] = weight * (excess.square() + 2 * excess * (active - active.detach()) / k)
        return losses

    def threshold(self) -> Tensor:
        """[d_sae]; Adam moves each parameter by about the learning rate a step, so a threshold by a share of
        threshold_rate times that.
        """
        return (self.config.threshold_rate * self.parameters["slow_log_threshold"]).exp()

    def _thresholds(self, indices: Tensor) -> Tensor:
        return sparse.gathered(self.threshold(), indices)

    def restart(self, features: Tensor, samples: TrainingBatch) -> None:
        super().restart(features, samples)
        self.parameters["slow_log_threshold"][features] = self.first_log

    def selection(self) -> selection.Selection:
        return selection.Threshold(self.threshold().detach().cpu())


class _Jump(torch.autograd.Function):
    """z where z is above its threshold, else 0. The gradient of the threshold θ is −θ/ε · K((z − θ)/ε), with
    the rectangle K of width 1 (equation 11 of the paper).
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, threshold: Tensor, bandwidth: float, near: Tensor) -> Tensor:
        active = near & (z > threshold)
        ctx.save_for_backward(z, threshold, active, near)
        ctx.bandwidth = bandwidth
        return z * active

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        z, threshold, active, near = ctx.saved_tensors
        window = near & ((z - threshold).abs() < ctx.bandwidth / 2)
        return slope * active, -slope * window * threshold / ctx.bandwidth, None, None


class _Step(torch.autograd.Function):
    """1 where z is above its threshold, else 0; the gradient of the threshold is −1/ε · K((z − θ)/ε)."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, threshold: Tensor, bandwidth: float, near: Tensor) -> Tensor:
        ctx.save_for_backward(near & ((z - threshold).abs() < bandwidth / 2))
        ctx.bandwidth = bandwidth
        return (near & (z > threshold)).to(z.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        (window,) = ctx.saved_tensors
        return None, -slope * window / ctx.bandwidth, None, None
