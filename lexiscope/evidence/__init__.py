"""What a feature fires on and what it writes, and how far that is beyond chance (docs/evidence.md).

Of a name, words and the feature's relation to them: `relations`, `FiringSample`, `relation_evidence`.
Of what a feature writes: `writing`. Of the token of its nearest anchor, on which no verdict rests:
`EvidenceCounts`, `AblationCounts`. Pure functions of tensors, and counts that merge. Each share has its
chance: the same share for tokens or words of like frequency.
"""

from lexiscope.evidence.ablation import AblationCounts, ablation_p
from lexiscope.evidence.counts import FDR, Evidence, EvidenceCounts
from lexiscope.evidence.families import families, matched_controls
from lexiscope.evidence.firing_sample import (
    CHOOSING,
    JUDGING,
    MAX_PASSAGES,
    SAMPLED_FIRINGS,
    FiringSample,
    PassageWords,
    RelationCounts,
    halves_of,
    place_codes,
)
from lexiscope.evidence.flat_text import NEAR, FlatFirings, FlatText, flat_firings, mix
from lexiscope.evidence.lift import HighestLift, highest_lift, lift_names
from lexiscope.evidence.name_hits import KINDS, NameHits, NameTables
from lexiscope.evidence.relation_evidence import RelationEvidence, SampledText, relation_evidence
from lexiscope.evidence.relations import COMMONEST, RELATIONS, VERDICTS, JudgedNames, RelationNames, verdicts
from lexiscope.evidence.significance import benjamini_hochberg, frequency_bins, poisson_tail
from lexiscope.evidence.words import shown_tokens, words_of
from lexiscope.evidence.writing import WRITE_VERDICTS, rises, write_verdicts

__all__ = [
    "CHOOSING",
    "COMMONEST",
    "FDR",
    "JUDGING",
    "KINDS",
    "MAX_PASSAGES",
    "NEAR",
    "RELATIONS",
    "SAMPLED_FIRINGS",
    "VERDICTS",
    "WRITE_VERDICTS",
    "AblationCounts",
    "Evidence",
    "EvidenceCounts",
    "FiringSample",
    "FlatFirings",
    "FlatText",
    "HighestLift",
    "JudgedNames",
    "NameHits",
    "NameTables",
    "PassageWords",
    "RelationCounts",
    "RelationEvidence",
    "RelationNames",
    "SampledText",
    "ablation_p",
    "benjamini_hochberg",
    "families",
    "flat_firings",
    "frequency_bins",
    "halves_of",
    "highest_lift",
    "lift_names",
    "matched_controls",
    "mix",
    "place_codes",
    "poisson_tail",
    "relation_evidence",
    "rises",
    "shown_tokens",
    "verdicts",
    "words_of",
    "write_verdicts",
]
