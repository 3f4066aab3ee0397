"""Figures with their 95 % intervals. Positions of one passage are not independent, so the passage is what is
resampled; where features are what is counted, the feature is.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from lexiscope.metrics import bootstrap_mean
from lexiscope.records import ChartPoint, StudyFigure


class Interval(NamedTuple):
    """A mean with its 95 % interval (percentile bootstrap, `lexiscope.metrics.bootstrap_mean`)."""

    value: float
    low: float
    high: float

    def at(self, x: float) -> ChartPoint:
        """The point of a chart, with its interval."""
        return ChartPoint(x=x, y=self.value, low=self.low, high=self.high)


def mean_over(values: Tensor, group: Tensor | None = None, *, seed: int = 0) -> Interval:
    """The mean of values [n]; `group` [n] says which are resampled together (each alone where it is None)."""
    values = values.double()
    if group is None:
        sums, counts = values, torch.ones_like(values)
    else:
        n = int(group.max()) + 1
        sums = torch.zeros(n, dtype=torch.float64).index_add_(0, group, values)
        counts = torch.bincount(group, minlength=n).double()
        sums, counts = sums[counts > 0], counts[counts > 0]
    low, high = bootstrap_mean(sums, counts, seed=seed)
    return Interval(float(sums.sum() / counts.sum()), low, high)


def ratio_over(part: Tensor, whole: Tensor, group: Tensor, *, seed: int = 0) -> Interval:
    """Σ part / Σ whole for part and whole [n], resampled by `group` [n]."""
    n = int(group.max()) + 1
    sums = [torch.zeros(n, dtype=torch.float64).index_add_(0, group, each.double()) for each in (part, whole)]
    used = torch.bincount(group, minlength=n) > 0
    low, high = bootstrap_mean(sums[0][used], sums[1][used], seed=seed)
    return Interval(float(sums[0].sum() / sums[1].sum()), low, high)


def figure(
    label: str,
    unit: str,
    measured: Interval | float,
    meaning: str,
    *,
    control: Interval | float | None = None,
) -> StudyFigure:
    """A figure of the record; the control's interval is left to the tables."""
    value, low, high = measured if isinstance(measured, Interval) else (float(measured), None, None)
    beside = control.value if isinstance(control, Interval) else control
    return StudyFigure(
        label=label, unit=unit, value=value, low=low, high=high, control=beside, meaning=meaning
    )


def percent(value: float) -> str:
    """A share in a sentence."""
    return f"{100 * value:.1f} %".replace("-", "−")
