"""Name evidence (docs/method.md): does a feature named t fire on t, on t's family, near t, or where t comes
next?

Pure functions of tensors and one streaming accumulator, `EvidenceCounts`. Shares are over all firings of a
feature, so all activation quantiles count by their size. Each share has its chance: the same share for random
tokens of like frequency.
"""

from lexiscope.evidence.ablation import AblationCounts, ablation_p
from lexiscope.evidence.counts import FDR, KINDS, Evidence, EvidenceCounts
from lexiscope.evidence.families import families, matched_controls
from lexiscope.evidence.lift import HighestLift, highest_lift, lift_names
from lexiscope.evidence.positions import NEAR, PositionTokens, position_tokens
from lexiscope.evidence.significance import benjamini_hochberg, frequency_bins, poisson_tail

__all__ = [
    "FDR",
    "KINDS",
    "NEAR",
    "AblationCounts",
    "Evidence",
    "EvidenceCounts",
    "HighestLift",
    "PositionTokens",
    "ablation_p",
    "benjamini_hochberg",
    "families",
    "frequency_bins",
    "highest_lift",
    "lift_names",
    "matched_controls",
    "poisson_tail",
    "position_tokens",
]
