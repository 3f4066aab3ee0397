"""The verdict on what a feature writes: by intervention alone, and decided here alone."""

import numpy as np
import torch
from torch import Tensor

from lexiscope.evidence.counts import FDR

WRITE_VERDICTS = ("both", "steering", "ablation", "none", "untested", "dead")
"""from best to worst"""
FALLS = 0.2
"""Least share of the contexts in which ablation must lower a token among the five that fall most."""
LEAST_RISE = 1e-5
"""Differences of a probability up to this are rounding (docs/architecture.md)."""


def rises(rise: Tensor, control: Tensor) -> Tensor:
    """bool: the probability rises, and by more than under every control; NaN is no rise."""
    return (rise > LEAST_RISE) & (rise > control)


def write_verdicts(live: Tensor, *, falls: Tensor, q: Tensor, rise: Tensor, control: Tensor) -> np.ndarray:
    """[d_sae] what a write list is worth, as text.

    `falls` and `q` are the ablation's share of contexts and its q-value, `rise` the rise of the first token's
    probability at equal KL and `control` the largest rise among its controls; each NaN where the intervention
    was not made. `dead` where the feature is not live, `untested` where it was not ablated or not steered;
    `ablation` where at least FALLS of the contexts have a written token among the five that fall most and q ≤
    FDR, `steering` where the first token rises above every control, or `both`; else `none`.
    """
    ablation, steering = (falls >= FALLS) & (q <= FDR), rises(rise, control)
    untested = falls.isnan() | rise.isnan()
    cases = {
        "dead": ~live,
        "untested": untested,
        "both": ablation & steering,
        "steering": steering,
        "ablation": ablation,
    }
    return np.select([torch.as_tensor(case).numpy() for case in cases.values()], list(cases), "none")
