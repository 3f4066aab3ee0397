"""The test of a name by the ablation pass: does taking the feature away lower its name's logit?"""

from typing import NamedTuple

import torch
from torch import Tensor

from lexiscope.evidence.significance import frequency_bins, poisson_tail, pooled_rate


class AblationCounts(NamedTuple):
    """What the ablation pass counted of features [d_sae]: in how many contexts a token is among the five
    whose logits fall most.
    """

    contexts: Tensor
    """0 where a feature was not tested"""
    hits: Tensor
    """of the name"""
    control_hits: Tensor
    """[d_sae, draws] of each of its frequency-matched controls"""
    rate: Tensor
    """share of all contexts of other features in which the name is among the five"""


def ablation_p(counts: AblationCounts, occurrences: Tensor) -> Tensor:
    """[d_sae] p-value of the ablation hits, NaN where a feature was not tested; occurrences [d_sae] of the
    names in the text.

    The larger of two: the Poisson tail P(X ≥ hits | contexts · p₀), with p₀ the larger of the pooled controls
    of features whose names are as frequent and of the name's own rate under the ablation of other features;
    and the share of all controls that do as well in their feature's contexts. The second is there because the
    contexts of one feature are no independent trials: what its direction lowers in one, it lowers in the
    next.
    """
    tested = counts.contexts > 0
    n, draws = counts.contexts.double(), counts.control_hits.shape[1]
    pooled = pooled_rate(counts.control_hits.sum(1).double(), n * draws, frequency_bins(occurrences))
    tail = poisson_tail(counts.hits.double(), n * torch.maximum(pooled, counts.rate.double()))
    controls = (counts.control_hits[tested] / n[tested, None]).reshape(-1).sort().values
    below = torch.searchsorted(controls, counts.hits / n.clamp_min(1))
    as_good = (len(controls) - below + 1) / (len(controls) + 1)
    return torch.maximum(tail, as_good).where(tested, float("nan"))
