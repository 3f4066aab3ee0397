"""HierarchicalTopK: one dictionary for every k up to its own. The loss is the mean over budgets j of the
error of the j largest features' reconstruction, so that k is chosen at read time (arXiv 2505.24473). With
budgets that double it is MSAE (arXiv 2502.20578).
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from trainer.activations.passages import TrainingBatch
from trainer.architectures.base import Pass, Step
from trainer.architectures.topk import TopKArchitecture, TopKConfig
from trainer.errors import RecipeError

PART = 128
"""Tokens whose k partial sums are held at once."""


@dataclass(frozen=True, kw_only=True)
class HierarchicalConfig(TopKConfig):
    name: str = "hierarchical"
    budgets: str = "all"
    """Numbers of features whose reconstruction counts: all from 1 to k, doubling, or N,N,… up to k."""
    weights: Literal["uniform", "reverse"] = "uniform"
    """The same weight for each budget; or their number for the first, down to 1 for the last."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.ladder()

    def ladder(self) -> list[int]:
        """The budgets, ascending; the last is k. Raises RecipeError for others."""
        if self.budgets == "all":
            return list(range(1, self.k + 1))
        if self.budgets == "doubling":
            return sorted({self.k, *(2**i for i in range(self.k.bit_length()) if 2**i < self.k)})
        try:
            found = [int(part) for part in self.budgets.split(",")]
        except ValueError:
            found = [0]
        if any(low >= high for low, high in pairwise([0, *found])) or found[-1] != self.k:
            raise RecipeError(
                f"budgets is '{self.budgets}': write all, doubling, or ascending numbers that end with k, "
                f"{self.k}."
            )
        return found


class Hierarchical(TopKArchitecture):
    name = "hierarchical"
    summary = "TopK whose every prefix of the code reconstructs: k is chosen at read time"
    config_type = HierarchicalConfig
    config: HierarchicalConfig

    def losses(self, batch: TrainingBatch, made: Pass, step: Step) -> dict[str, Tensor]:
        """The weighted mean over budgets, and TopK's other terms."""
        p, losses = self.parameters, super().losses(batch, made, step)
        share = torch.zeros(self.config.k, device=self.device)
        ladder = self.config.ladder()
        uniform = self.config.weights == "uniform"
        for place, budget in enumerate(ladder):
            share[budget - 1] = 1.0 if uniform else len(ladder) - place
        rest = batch.x @ p["dense_in"] @ p["dense_out"] + p["b_dec"] - batch.target
        mean: Tensor = _PrefixErrors.apply(
            made.code.values, made.code.indices, p["decoder"], rest, share / share.sum()
        )
        del losses["mse"]
        return {"budgets": mean, **losses}


class _PrefixErrors(torch.autograd.Function):
    """Σ_j share_j · mean((rest + Σ_{i≤j} values_i · rows[indices_i])²) for share [k], values [n, k], rest
    [n, d]; rows have norm 1, and their gradient no part along themselves. What the backward pass needs is
    summed in the forward one, a part of the tokens at a time: all prefixes are n · k · d numbers.
    """

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, indices: Tensor, rows: Tensor, rest: Tensor, share: Tensor
    ) -> Tensor:
        total, scale = rest.new_zeros(()), 2 / rest.numel()
        d_values, d_rows, d_rest = torch.zeros_like(values), torch.zeros_like(rows), torch.zeros_like(rest)
        for start in range(0, len(values), PART):
            part = slice(start, start + PART)
            z, chosen = values[part, :, None], rows[indices[part]]
            error = rest[part, None] + (z * chosen).cumsum(1)
            weighted = error * share[:, None]
            total += (weighted * error).sum()
            slope = weighted.flip(1).cumsum(1).flip(1) * scale  # of entry i: from every prefix that has it
            along = (slope * chosen).sum(-1)
            d_values[part] = along * (values[part] != 0)
            across = (slope - along[..., None] * chosen) * z
            d_rows.index_add_(0, indices[part].reshape(-1), across.reshape(-1, rows.shape[1]))
            d_rest[part] = slope[:, 0]
        ctx.save_for_backward(d_values, d_rows, d_rest)
        return total / rest.numel()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        d_values, d_rows, d_rest = ctx.saved_tensors
        return slope * d_values, None, slope * d_rows, slope * d_rest, None
