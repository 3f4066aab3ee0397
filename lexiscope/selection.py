"""How a dictionary selects active features from its pre-activations: TopK, AbsTopK or a threshold per
feature.

A selection is one frozen dataclass that derives from `Selection`. Everything that depends on the kind of
selection is one of its methods, so that another architecture adds a class here and its spelling in
`lexiscope.checkpoint`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Self

from torch import Tensor

from lexiscope.errors import CheckpointError
from lexiscope.sparse_code import SparseCode, abs_top_k, top_k


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

    @property
    def max_active(self) -> int | None:
        """The most features a token can have; None where their number is not bounded."""
        return None

    @abstractmethod
    def encode(self, pre_activations: Tensor) -> SparseCode:
        """The active features of each row; as many columns as the fullest row needs, or more."""

    @abstractmethod
    def select(self, pre_activations: Tensor, runners_up: int) -> Selected:
        """As `encode`, with the `runners_up` highest pre-activations that were not selected. May write into
        `pre_activations`.
        """

    def at_most(self, k: int) -> "Selection":
        """The same selection of at most k features a token. Raises CheckpointError where their number is not
        fixed.
        """
        raise CheckpointError("it selects by thresholds, not a fixed number of features")

    def map(self, change: Callable[[Tensor], Tensor]) -> Self:
        """The same selection with `change` applied to each of its tensors (another device, a copy)."""
        return self

    def tensors(self) -> dict[str, Tensor]:
        """Its tensors [d_sae] by name; empty where it has none."""
        return {}

    @abstractmethod
    def of_feature(self, index: int) -> Self:
        """The selection of a dictionary that holds this one feature only."""


@dataclass(frozen=True)
class TopK(Selection):
    """The k largest pre-activations of each token."""

    k: int
    independent = False

    @property
    def max_active(self) -> int:
        return self.k

    def encode(self, pre_activations: Tensor) -> SparseCode:
        return top_k(pre_activations, self.k)

    def select(self, pre_activations: Tensor, runners_up: int) -> Selected:
        wide = top_k(pre_activations, min(self.k + runners_up, pre_activations.shape[-1]))
        code = SparseCode(wide.values[:, : self.k], wide.indices[:, : self.k])
        return Selected(code, SparseCode(wide.values[:, self.k :], wide.indices[:, self.k :]))

    def at_most(self, k: int) -> "TopK":
        return TopK(min(k, self.k))

    def of_feature(self, index: int) -> "TopK":
        return TopK(min(self.k, 1))


@dataclass(frozen=True)
class AbsTopK(Selection):
    """The k pre-activations of largest magnitude of each token, with their sign (arXiv 2510.00404): a feature
    has two poles.
    """

    k: int
    independent = False
    signed = True

    @property
    def max_active(self) -> int:
        return self.k

    def encode(self, pre_activations: Tensor) -> SparseCode:
        return abs_top_k(pre_activations, self.k)

    def select(self, pre_activations: Tensor, runners_up: int) -> Selected:
        wide = abs_top_k(pre_activations, min(self.k + runners_up, pre_activations.shape[-1]))
        code = SparseCode(wide.values[:, : self.k], wide.indices[:, : self.k])
        return Selected(code, SparseCode(wide.values[:, self.k :], wide.indices[:, self.k :]))

    def at_most(self, k: int) -> "AbsTopK":
        return AbsTopK(min(k, self.k))

    def of_feature(self, index: int) -> "AbsTopK":
        return AbsTopK(min(self.k, 1))


@dataclass(frozen=True, eq=False)
class Threshold(Selection):
    """Every feature whose pre-activation is positive and above its threshold: JumpReLU, a gate, BatchTopK at
    inference; ReLU where all thresholds are 0.
    """

    threshold: Tensor
    """[d_sae]"""
    independent = True

    def encode(self, pre_activations: Tensor) -> SparseCode:
        fires = (pre_activations > self.threshold) & (pre_activations > 0)
        return _active(pre_activations, fires)

    def select(self, pre_activations: Tensor, runners_up: int) -> Selected:
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
    return SparseCode(*pre_activations.masked_fill(~fires, 0).topk(width, dim=-1))
