"""Name evidence (docs/method.md#name-evidence): does a feature named t fire on t, on t's family, near t, or
where t comes next?

Pure functions of tensors and one streaming accumulator, `EvidenceCounts`. Shares are over all firings of a
feature, so all activation quantiles count by their size. Each share has its chance: the same share for random
tokens of like frequency.
"""

from lexiscope.evidence.ablation import AblationCounts, ablation_p
from lexiscope.evidence.counts import FDR, Evidence, EvidenceCounts
from lexiscope.evidence.families import families, matched_controls
from lexiscope.evidence.flat_text import NEAR, FlatFirings, FlatText, flat_firings
from lexiscope.evidence.lift import HighestLift, highest_lift, lift_names
from lexiscope.evidence.name_hits import KINDS, NameHits, NameTables
from lexiscope.evidence.significance import benjamini_hochberg, frequency_bins, poisson_tail

__all__ = [
    "FDR",
    "KINDS",
    "NEAR",
    "AblationCounts",
    "Evidence",
    "EvidenceCounts",
    "FlatFirings",
    "FlatText",
    "HighestLift",
    "NameHits",
    "NameTables",
    "ablation_p",
    "benjamini_hochberg",
    "families",
    "flat_firings",
    "frequency_bins",
    "highest_lift",
    "lift_names",
    "matched_controls",
    "poisson_tail",
]
