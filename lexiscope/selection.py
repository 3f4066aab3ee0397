"""How a dictionary selects active features from its pre-activations: TopK, AbsTopK, a threshold per feature,
or one feature after another.

A selection is one frozen dataclass that derives from `Selection`. Everything that depends on the kind of
selection is one of its methods, so that another architecture adds a class here and its spelling in
`lexiscope.checkpoint`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import torch
from torch import Tensor

from lexiscope.errors import CheckpointError
from lexiscope.grouped_top_k import grouped_top_k
from lexiscope.sparse_code import SparseCode, abs_top_k, top_k

Feedback = Callable[[SparseCode], Tensor]
"""[n, d_sae] what the pre-activations lose when a code's reconstruction is taken off what was encoded; a
`Dictionary`'s also has `norm`, the input's.
"""


def alone(code: SparseCode) -> Tensor:
    """The feedback of a selection that needs none."""
    raise NotImplementedError("This selection encodes what it has left over: give it a feedback.")


class Selected(NamedTuple):
    """The code of n tokens, and the features that came closest to being in it."""

    code: SparseCode
    runners_up: SparseCode
    """[n, m] the highest positive pre-activations that were not selected; padded with value 0. Of a signed
    selection, those of largest magnitude.
    """


class Selection(ABC):
    """Selects from pre-activations [n, d_sae]; a feature with a pre-activation of 0 or less is never active,
    unless the selection is signed.
    """

    independent: bool
    """a feature's activation depends on its own pre-activation alone"""
    signed = False
    """activations may be negative"""
    iterative = False
    """it encodes what it has left over: a feature may be active whose pre-activation is not positive"""

    @property
    def kind(self) -> str:
        """What tells it from selections of other kinds with the same `max_active` and tensors."""
        return type(self).__name__

    @property
    def max_active(self) -> int | None:
        """The most features a token can have; None where their number is not bounded."""
        return None

    @abstractmethod
    def encode(self, pre_activations: Tensor, feedback: Feedback) -> SparseCode:
        """The active features of each row; as many columns as the fullest row needs, or more."""

    @abstractmethod
    def select(self, pre_activations: Tensor, runners_up: int, feedback: Feedback) -> Selected:
        """As `encode`, with the `runners_up` highest pre-activations that were not selected. May write into
        `pre_activations`.
        """

    def at_most(self, k: int) -> "Selection":
        """The same selection of at most k features a token. Raises CheckpointError where their number is not
        fixed.
        """
        raise CheckpointError("it does not select the strongest of all its features")

    def map(self, change: Callable[[Tensor], Tensor]) -> Self:
        """The same selection with `change` applied to each of its tensors (another device, a copy)."""
        return self

    def tensors(self) -> dict[str, Tensor]:
        """Its tensors [d_sae] by name; empty where it has none."""
        return {}

    @abstractmethod
    def of_feature(self, index: int) -> "Selection":
        """The selection of a dictionary that holds this one feature only."""


@dataclass(frozen=True)
class _LargestOfEach(Selection):
    """k features of each token, by their own pre-activations alone."""

    k: int
    independent = False

    @staticmethod
    @abstractmethod
    def largest(pre_activations: Tensor, k: int) -> SparseCode:
        """The k largest, in whatever sense, the largest first."""

    @property
    def max_active(self) -> int:
        return self.k

    def encode(self, pre_activations: Tensor, feedback: Feedback = alone) -> SparseCode:
        return self.largest(pre_activations, self.k)

    def select(self, pre_activations: Tensor, runners_up: int, feedback: Feedback = alone) -> Selected:
        wide = self.largest(pre_activations, min(self.k + runners_up, pre_activations.shape[-1]))
        code = SparseCode(wide.values[:, : self.k], wide.indices[:, : self.k])
        return Selected(code, SparseCode(wide.values[:, self.k :], wide.indices[:, self.k :]))

    def at_most(self, k: int) -> Self:
        return replace(self, k=min(k, self.k))

    def of_feature(self, index: int) -> Self:
        return self.at_most(1)


@dataclass(frozen=True)
class TopK(_LargestOfEach):
    """The k largest pre-activations of each token."""

    largest = staticmethod(top_k)


@dataclass(frozen=True)
class AbsTopK(_LargestOfEach):
    """The k pre-activations of largest magnitude of each token, with their sign (arXiv 2510.00404): a feature
    has two poles.
    """

    signed = True
    largest = staticmethod(abs_top_k)


@dataclass(frozen=True)
class GroupTopK(Selection):
    """The features are of equal groups, one after another: the k / groups largest pre-activations of each
    group. With `boosted`, a group reads what the groups before it left of x (arXiv 2505.16077).
    """

    k: int
    groups: int
    boosted: bool = False
    independent = False
    iterative = True

    @property
    def kind(self) -> str:
        return f"{'boosted' if self.boosted else 'bagged'} {self.groups}"

    @property
    def max_active(self) -> int:
        return self.k

    def encode(self, pre_activations: Tensor, feedback: Feedback = alone) -> SparseCode:
        return self._encode(pre_activations, feedback)[0]

    def _encode(self, pre: Tensor, feedback: Feedback) -> tuple[SparseCode, Tensor]:
        """Also the pre-activations as the last group read them."""
        width, parts = pre.shape[-1] // self.groups, list[SparseCode]()
        for group in range(self.groups):
            first = group * width
            found = top_k(pre[:, first : first + width], self.k // self.groups)
            parts.append(SparseCode(found.values, found.indices + first))
            if self.boosted and group + 1 < self.groups:
                pre = pre - feedback(parts[-1])
        values, indices = (torch.cat(columns, 1) for columns in zip(*parts, strict=True))
        order = values.argsort(dim=-1, descending=True, stable=True)
        return SparseCode(values.gather(1, order), indices.gather(1, order)), pre

    def select(self, pre_activations: Tensor, runners_up: int, feedback: Feedback = alone) -> Selected:
        code, pre = self._encode(pre_activations, feedback)
        return Selected(code, _left_out(pre, code, runners_up))

    def of_feature(self, index: int) -> "TopK":
        return TopK(1)


@dataclass(frozen=True)
class Pursuit(Selection):
    """Matching pursuit: k times, the largest pre-activation of what is left of x; rows of norm 1. A feature
    that is taken twice has the sum.
    """

    k: int
    independent = False
    iterative = True

    @property
    def max_active(self) -> int:
        return self.k

    def encode(self, pre_activations: Tensor, feedback: Feedback = alone) -> SparseCode:
        return self._encode(pre_activations, feedback)[0]

    def _encode(self, pre: Tensor, feedback: Feedback) -> tuple[SparseCode, Tensor]:
        """Also the pre-activations of what is left."""
        found = torch.zeros_like(pre)
        for _ in range(self.k):
            values, indices = pre.max(-1, keepdim=True)
            taken = SparseCode(values.relu(), indices)
            found.scatter_add_(1, indices, taken.values)
            pre = pre - feedback(taken)
        return top_k(found, min(self.k, found.shape[-1])), pre

    def select(self, pre_activations: Tensor, runners_up: int, feedback: Feedback = alone) -> Selected:
        code, pre = self._encode(pre_activations, feedback)
        return Selected(code, _left_out(pre, code, runners_up))

    def at_most(self, k: int) -> "Pursuit":
        return Pursuit(min(k, self.k))

    def of_feature(self, index: int) -> "TopK":
        return TopK(1)


@dataclass(frozen=True, eq=False)
class Threshold(Selection):
    """Every feature whose pre-activation is positive and above its threshold: JumpReLU, a gate, BatchTopK at
    inference; ReLU where all thresholds are 0.
    """

    threshold: Tensor
    """[d_sae]"""
    independent = True

    def encode(self, pre_activations: Tensor, feedback: Feedback = alone) -> SparseCode:
        fires = (pre_activations > self.threshold) & (pre_activations > 0)
        return _active(pre_activations, fires)

    def select(self, pre_activations: Tensor, runners_up: int, feedback: Feedback = alone) -> Selected:
        fires = (pre_activations > self.threshold) & (pre_activations > 0)
        code = _active(pre_activations, fires)
        rest = pre_activations.masked_fill_(fires, 0)
        return Selected(code, top_k(rest, min(runners_up, rest.shape[-1])))

    def map(self, change: Callable[[Tensor], Tensor]) -> "Threshold":
        return Threshold(change(self.threshold))

    def tensors(self) -> dict[str, Tensor]:
        return {"threshold": self.threshold}

    def of_feature(self, index: int) -> "Threshold":
        return Threshold(self.threshold[index : index + 1])


def _active(pre_activations: Tensor, fires: Tensor) -> SparseCode:
    width = max(1, int(fires.sum(-1).max())) if len(fires) else 1
    return SparseCode(*grouped_top_k(pre_activations.masked_fill(~fires, 0), width))


def _left_out(pre_activations: Tensor, code: SparseCode, n: int) -> SparseCode:
    """The n highest pre-activations that are not in the code."""
    rest = pre_activations.scatter(1, code.indices, 0.0)
    return top_k(rest, min(n, rest.shape[-1]))
