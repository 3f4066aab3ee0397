"""Ridge regression, and what it explains of passages that it was not fitted on."""

from typing import NamedTuple

import torch
from torch import Tensor

from studies.intervals import Interval, ratio_over

RIDGE = 1e-3
"""of the mean eigenvalue of the covariance of x"""


class Linear(NamedTuple):
    """x ↦ (x − mean) W + bias, fitted by ridge regression."""

    mean: Tensor
    W: Tensor
    bias: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return (x - self.mean) @ self.W + self.bias


def ridge(x: Tensor, y: Tensor) -> Linear:
    """The regression of y [n, m] on x [n, d], with intercept."""
    mean, bias = x.mean(0), y.mean(0)
    centred = (x - mean).double()
    gram = centred.T @ centred
    gram += torch.eye(len(gram), dtype=torch.float64) * (RIDGE * gram.diagonal().mean())
    return Linear(mean, torch.linalg.solve(gram, centred.T @ (y - bias).double()).float(), bias)


def explained(y: Tensor, guess: Tensor, mean: Tensor, group: Tensor, *, seed: int = 0) -> Interval:
    """1 − Σ‖y − guess‖² / Σ‖y − mean‖² with its interval over groups [n]; y and guess [n, m]."""
    return explained_but(y - guess, y - mean, group, seed=seed)


def explained_but(rest: Tensor, whole: Tensor, group: Tensor, *, seed: int = 0) -> Interval:
    """1 − Σ‖rest‖² / Σ‖whole‖² with its interval over groups [n]; rest and whole [n, m]."""
    left = ratio_over(rest.square().sum(-1), whole.square().sum(-1), group, seed=seed)
    return Interval(1 - left.value, 1 - left.high, 1 - left.low)
