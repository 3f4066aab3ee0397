"""Selections whose number of active features follows the token, or that select whole blocks: sparsemax, a
norm to be matched, a threshold on either side of 0, blocks of features.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lexiscope.errors import CheckpointError
from lexiscope.selection import Feedback, Selected, Selection, alone
from lexiscope.sparse_code import SparseCode, abs_top_k, top_k


def sparsemax_threshold(scores: Tensor) -> Tensor:
    """[n, 1] τ with Σ_i max(scores_i − τ, 0) = 1, for scores [n, d_sae]: the support of sparsemax (Martins
    and Astudillo 2016, arXiv 1602.02068) is where scores are above τ.
    """
    largest = scores.max(-1, keepdim=True).values
    wanted = min(scores.shape[-1], 64)
    while True:  # τ is at least max − 1, so that few scores are in the support, as a rule
        ordered = scores.topk(wanted, dim=-1).values - largest
        place = torch.arange(1, wanted + 1, device=scores.device)
        inside = 1 + place * ordered > ordered.cumsum(-1)
        if wanted == scores.shape[-1] or not bool(inside[:, -1].any()):
            count = inside.sum(-1, keepdim=True)
            total = (ordered * inside).sum(-1, keepdim=True)
            return largest + (total - 1) / count
        wanted = min(2 * wanted, scores.shape[-1])


@dataclass(frozen=True)
class Sparsemax(Selection):
    """The positive pre-activations in the support of sparsemax(scale · pre-activations)."""

    scale: float
    independent = False

    @property
    def kind(self) -> str:
        return f"sparsemax {self.scale!r}"

    def encode(self, pre_activations: Tensor, feedback: Feedback = alone) -> SparseCode:
        return _active(pre_activations, self._fires(pre_activations))

    def _fires(self, pre: Tensor) -> Tensor:
        return pre > (sparsemax_threshold(self.scale * pre) / self.scale).clamp_min(0)

    def select(self, pre_activations: Tensor, runners_up: int, feedback: Feedback = alone) -> Selected:
        fires = self._fires(pre_activations)
        return _selected(pre_activations, fires, runners_up)

    def of_feature(self, index: int) -> "Sparsemax":
        return self


@dataclass(frozen=True)
class NormMatch(Selection):
    """The largest pre-activations of each token, so many that the code's norm comes nearest to that of the
    input, at most `k` (top-AFA, arXiv 2503.24277). `Dictionary` gives the input's norm with its feedback.
    """

    k: int
    independent = False

    @property
    def max_active(self) -> int:
        return self.k

    def encode(self, pre_activations: Tensor, feedback: Feedback = alone) -> SparseCode:
        wide = top_k(pre_activations, min(self.k, pre_activations.shape[-1]))
        return norm_matched(wide, norm_of(feedback))

    def select(self, pre_activations: Tensor, runners_up: int, feedback: Feedback = alone) -> Selected:
        code = self.encode(pre_activations, feedback)
        chosen = torch.zeros_like(pre_activations, dtype=torch.bool)
        chosen.scatter_(1, code.indices, code.values > 0)
        return Selected(code, _runners_up(pre_activations, chosen, runners_up))

    def at_most(self, k: int) -> "NormMatch":
        return NormMatch(min(k, self.k))

    def of_feature(self, index: int) -> "NormMatch":
        return self


def norm_of(feedback: Feedback) -> Tensor:
    """[n] the norm of the input less the bias, in units of a decoder row's norm."""
    norm: Callable[[], Tensor] = feedback.norm  # type: ignore[attr-defined]
    return norm()


def norm_matched(code: SparseCode, norm: Tensor) -> SparseCode:
    """The prefix of each code [n, k], values descending, whose norm is nearest to `norm` [n]; others 0."""
    so_far = code.values.square().cumsum(-1).sqrt()
    count = (so_far - norm[:, None]).abs().argmin(-1, keepdim=True) + 1
    place = torch.arange(code.values.shape[1], device=norm.device)
    return SparseCode(code.values * (place < count), code.indices)


@dataclass(frozen=True, eq=False)
class TwoSided(Selection):
    """Every feature whose pre-activation is above its threshold or below its negative, with its sign: the
    Bi-Jump-ReLU with equal radii (arXiv 2605.28149).
    """

    threshold: Tensor
    """[d_sae], not negative"""
    independent = True
    signed = True

    def encode(self, pre_activations: Tensor, feedback: Feedback = alone) -> SparseCode:
        return _active(pre_activations, pre_activations.abs() > self.threshold)

    def select(self, pre_activations: Tensor, runners_up: int, feedback: Feedback = alone) -> Selected:
        fires = pre_activations.abs() > self.threshold
        return _selected(pre_activations, fires, runners_up, largest=abs_top_k)

    def map(self, change: Callable[[Tensor], Tensor]) -> "TwoSided":
        return TwoSided(change(self.threshold))

    def tensors(self) -> dict[str, Tensor]:
        return {"threshold": self.threshold}

    def of_feature(self, index: int) -> "TwoSided":
        return TwoSided(self.threshold[index : index + 1])


@dataclass(frozen=True)
class Blocks(Selection):
    """The features are of equal blocks, one after another: all features, with their sign, of the k / size
    blocks with the largest norm of pre-activations (SASA, arXiv 2606.06333).
    """

    k: int
    size: int
    independent = False
    signed = True

    @property
    def kind(self) -> str:
        return f"blocks of {self.size}"

    @property
    def max_active(self) -> int:
        return self.k

    def chosen(self, pre: Tensor) -> Tensor:
        """[n, k] the features of the chosen blocks."""
        norms = pre.unflatten(-1, (-1, self.size)).norm(dim=-1)
        blocks = norms.topk(self.k // self.size, dim=-1).indices
        return (blocks[..., None] * self.size + torch.arange(self.size, device=pre.device)).flatten(-2)

    def encode(self, pre_activations: Tensor, feedback: Feedback = alone) -> SparseCode:
        indices = self.chosen(pre_activations)
        values = pre_activations.gather(-1, indices)
        order = values.abs().argsort(dim=-1, descending=True, stable=True)
        return SparseCode(values.gather(-1, order), indices.gather(-1, order))

    def select(self, pre_activations: Tensor, runners_up: int, feedback: Feedback = alone) -> Selected:
        code = self.encode(pre_activations)
        chosen = torch.zeros_like(pre_activations, dtype=torch.bool).scatter_(1, code.indices, True)
        return Selected(code, _runners_up(pre_activations, chosen, runners_up, largest=abs_top_k))

    def at_most(self, k: int) -> "Blocks":
        """Fewer blocks. Raises CheckpointError where k is less than one."""
        if k < self.size:
            raise CheckpointError(f"it selects whole blocks of {self.size} features")
        return Blocks(min(self.k, k // self.size * self.size), self.size)

    def of_feature(self, index: int) -> "Blocks":
        return Blocks(1, 1)


def _active(pre: Tensor, fires: Tensor) -> SparseCode:
    """Those that fire, the largest magnitude first."""
    width = max(1, int(fires.sum(-1).max())) if len(fires) else 1
    return abs_top_k(pre.masked_fill(~fires, 0), width)


def _selected(
    pre: Tensor, fires: Tensor, n: int, *, largest: Callable[[Tensor, int], SparseCode] = top_k
) -> Selected:
    return Selected(_active(pre, fires), _runners_up(pre, fires, n, largest=largest))


def _runners_up(
    pre: Tensor, chosen: Tensor, n: int, *, largest: Callable[[Tensor, int], SparseCode] = top_k
) -> SparseCode:
    rest = pre.masked_fill(chosen, 0)
    return largest(rest, min(n, rest.shape[-1]))
