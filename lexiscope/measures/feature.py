"""Measures of one feature, on the indexed text."""

from lexiscope.measures.measure import Measure, Place, by_name

WRITTEN = 3
"""The first tokens of a write list, which are tested together by ablation; steering tests the first."""

_NEVER_FIRED = "where the feature never fired"
_SILENT = "where the feature never fired in the passages that names are judged on, which alone are counted"
_NARROW = "below two firings, or where they spread too little for it to be told from rounding"
_UNNAMED = "where no word and relation could be chosen"
_UNJUDGED = f"{_UNNAMED}, or the feature never fired in the passages that judge them"
_NOT_ABLATED = "where the ablation pass did not test it"
_NOT_STEERED = "where it was not drawn to be steered"


def _tested(name: str, label: str, meaning: str, absent: str, place: Place) -> Measure:
    """A share that is measured for the name and, beside it, for chance."""
    return Measure(name, label, "share", meaning, chance=f"{name}_null", absent=absent, places=(place,))


FEATURE = by_name(
    [
        Measure(
            "relation_share",
            "share",
            "share",
            "share of the judged firings in the feature's relation to its words",
            absent=_UNJUDGED,
        ),
        Measure(
            "relation_low", "share, low", "share", "lower end of the share's 95 % interval", absent=_UNJUDGED
        ),
        Measure(
            "relation_high",
            "share, high",
            "share",
            "upper end of the share's 95 % interval",
            absent=_UNJUDGED,
        ),
        Measure(
            "relation_chance",
            "chance",
            "share",
            "what chance gives: the rate of the relation in the text, or the share for words as frequent, "
            "whichever is larger",
            absent=_UNJUDGED,
        ),
        Measure("relation_lift", "lift", "number", "the share over chance", absent=_UNJUDGED),
        Measure(
            "relation_q",
            "q",
            "q-value",
            "false-discovery-rate q-value of the relation, over the live features tested",
            absent=_UNJUDGED,
        ),
        Measure(
            "judged_firings",
            "judged firings",
            "tokens",
            "firings of the sample on which the name was judged",
            absent=_UNNAMED,
        ),
        Measure(
            "judged_passages",
            "judged passages",
            "passages",
            "passages that these firings are in",
            absent=_UNNAMED,
        ),
        Measure("cosine", "cosine", "cosine", "cosine of the direction to the anchor of its name"),
        Measure(
            "cosine_assigned",
            "cosine to the assigned anchor",
            "cosine",
            "cosine of the direction to the anchor it was trained towards",
            absent="where training assigned none",
        ),
        Measure(
            "cosine_embedding",
            "cosine to W_E",
            "cosine",
            "cosine of the direction to the name's row of raw W_E, centred",
        ),
        Measure("margin", "margin", "cosine", "cosine of the name minus cosine of the second name"),
        Measure(
            "phrase_cosine",
            "phrase cosine",
            "cosine",
            "cosine of the direction to the combination of up to three anchors in its phrase",
        ),
        Measure(
            "n_same_name",
            "same name",
            "features",
            "features of this dictionary with the same name, itself included",
        ),
        Measure(
            "n_same_family",
            "same spelling",
            "features",
            "features of this dictionary whose name differs from it in case and outer space at most, itself "
            "included",
        ),
        Measure("live", "live", "flag", "fires on at least one token in 100,000"),
        Measure(
            "density", "fires on", "share", "share of corpus tokens on which it fires", places=("activity",)
        ),
        Measure("n_firings", "firings", "tokens", "corpus tokens on which it fires", places=("activity",)),
        Measure(
            "mean_activation",
            "mean",
            "activation",
            "mean activation where it fires; 0 where it never does",
            places=("activity",),
        ),
        Measure(
            "max_activation",
            "max",
            "activation",
            "greatest activation, of either sign",
            places=("activity",),
        ),
        Measure(
            "negative_share",
            "negative firings",
            "share",
            "share of its firings with a negative activation; 0 unless the dictionary is signed",
            absent="in imported dashboards",
        ),
        Measure(
            "std_activation",
            "std",
            "activation",
            "standard deviation of the activation over its firings",
            absent="below two firings",
            places=("activity",),
        ),
        Measure(
            "skewness",
            "skewness",
            "number",
            "third standardised moment of the activation over its firings: 0 where strong and weak firings "
            "balance, positive with a tail of strong ones",
            absent=_NARROW,
            places=("activity",),
        ),
        Measure(
            "kurtosis",
            "kurtosis",
            "number",
            "excess kurtosis of the activation over its firings: 0 for a normal distribution, positive where "
            "extreme values are common",
            absent=_NARROW,
            places=("activity",),
        ),
        _tested("reads_here", "on the name", "share of firings on the name itself", _SILENT, "evidence"),
        _tested(
            "reads_family",
            "on its family",
            "share of firings on the name or its family: case, space and inflection variants, and the 20 "
            "nearest tokens by raw W_E",
            _SILENT,
            "evidence",
        ),
        _tested(
            "reads_near",
            "near the name",
            "share of firings with the name among the 32 tokens before, or there",
            _SILENT,
            "evidence",
        ),
        _tested("predicts", "before the name", "share of firings that the name follows", _SILENT, "evidence"),
        Measure(
            "recall",
            "recall",
            "share",
            "share of the name's occurrences on which the feature fires",
            absent=_SILENT,
            places=("evidence",),
        ),
        Measure(
            "q_reads",
            "q, reading",
            "q-value",
            "false-discovery-rate q-value of reads_here or reads_family, over live features",
            absent=_SILENT,
        ),
        Measure(
            "q_predicts",
            "q, predicting",
            "q-value",
            "false-discovery-rate q-value of predicts, and of the ablation test where it was run, over live "
            "features",
            absent=_SILENT,
        ),
        Measure(
            "name_rank",
            "rank of the name",
            "rank",
            "rank of the name among the logits that the direction raises, through the final norm and the "
            "unembedding; 0 = raised most",
            absent="where only the top ones are known",
        ),
        Measure(
            "ablation_contexts",
            "contexts",
            "contexts",
            "contexts in which the feature was taken away",
            absent=_NOT_ABLATED,
        ),
        _tested(
            "ablation_top1",
            "top 1",
            "share of contexts where, without the feature, the name's logit falls most of all tokens'",
            _NOT_ABLATED,
            "ablation",
        ),
        _tested(
            "ablation_top5",
            "top 5",
            "share of contexts where, without the feature, the name's logit is among the five that fall most",
            _NOT_ABLATED,
            "ablation",
        ),
        Measure(
            "ablation_rank",
            "median rank",
            "median rank",
            "median rank of the name among the logits that fall without the feature; 0 = falls most",
            absent=_NOT_ABLATED,
        ),
        Measure(
            "q_ablation",
            "q, ablation",
            "q-value",
            "false-discovery-rate q-value of ablation_top5, over the features tested",
            absent=_NOT_ABLATED,
        ),
        _tested(
            "input_score",
            "input score",
            "share of its top contexts whose strongest token is the name (Arad et al. 2025)",
            _NOT_ABLATED,
            "scores",
        ),
        _tested(
            "output_score",
            "output score",
            "rise of the name's rank-weighted probability when the feature is amplified on a neutral prompt "
            "(Arad et al. 2025)",
            _NOT_ABLATED,
            "scores",
        ),
        _tested(
            "write_top5",
            "ablation, top 5",
            "share of contexts where, without the feature, the logit of one of the first three tokens it "
            "writes is among the five that fall most",
            _NOT_ABLATED,
            "writing",
        ),
        Measure(
            "q_write",
            "q, ablation of what it writes",
            "q-value",
            "false-discovery-rate q-value of write_top5, over the features tested",
            absent=_NOT_ABLATED,
        ),
        Measure(
            "write_rise",
            "rise under steering",
            "share",
            "rise of the probability of the first token it writes, when its direction is added at the last "
            "position of neutral prefixes at a KL divergence of 0.5 nats",
            absent=_NOT_STEERED,
        ),
        Measure(
            "write_control",
            "largest rise among controls",
            "share",
            "the largest rise of that token under 24 other live features at the same KL divergence, and of "
            "tokens as frequent under this one",
            absent=_NOT_STEERED,
        ),
        Measure(
            "write_strength",
            "strength",
            "number",
            "length that was added, in mean residual norms of the layer",
            absent=_NOT_STEERED,
        ),
        Measure(
            "lift_share",
            "fires on the lift token",
            "share",
            "share of firings on the token of highest lift",
            absent=_NEVER_FIRED,
        ),
        Measure(
            "logit_share",
            "the top logit token comes next",
            "share",
            "share of firings that the top token of the direction through norm and unembedding follows",
            absent=_NEVER_FIRED,
        ),
        Measure(
            "beats_name",
            "the lift token beats the name",
            "flag",
            "the lift token takes more of its firings than the name does, by more than chance",
        ),
        Measure(
            "logit_beats_name",
            "the logit token beats the name",
            "flag",
            "the top logit token follows more of its firings than the name does, by more than chance",
        ),
    ]
)
