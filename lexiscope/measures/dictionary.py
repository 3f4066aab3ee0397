"""Measures of a dictionary on the indexed text. Held-out FVE, ΔCE and the dense share are those that its
checkpoint records, on held-out text.
"""

from lexiscope.measures.measure import Measure, by_name

OFTEN, FOUND = 10, 0.5
"""Occurrences from which a word counts for `finds`, and the F1 from which it is found."""

_NO_PASS = "where the ablation pass was not run"
_NOT_STEERED = "where the causal pass steered nothing"
_NOT_JUDGED = "where there is nothing to judge: in an import, for example"
_NOT_RECORDED = "where the checkpoint does not record it"

DICTIONARY = by_name(
    [
        Measure(
            "d_sae",
            "features",
            "features",
            "features of the dictionary; one a name where it is as wide as the vocabulary",
            places=("tiles",),
        ),
        Measure(
            "n_live",
            "live",
            "features",
            "features that fire on at least one token in 100,000",
            places=("tiles",),
        ),
        Measure(
            "l0",
            "active",
            "per token",
            "L0: features that fire on a token, on average",
            places=("table", "eval"),
        ),
        Measure(
            "dead_share",
            "dead",
            "share",
            "share of features that fire on fewer than one token in 100,000. A perfect detector of a token "
            "that never occurs is dead, and rightly so",
            places=("tiles", "table", "eval"),
        ),
        Measure(
            "aligned_all",
            "aligned, all",
            "share",
            "share of all features whose cosine to the nearest anchor of the dictionary's own set is at "
            "least 0.8. Dead features count, which makes it a headline to distrust",
            places=("tiles",),
            better="more",
        ),
        Measure(
            "aligned_live",
            "aligned, live",
            "share",
            "the aligned share of live features",
            places=("tiles", "alignment", "eval"),
            better="more",
        ),
        Measure(
            "aligned_firing",
            "aligned, firings",
            "share",
            "the aligned share with every live feature counted once a firing: the chance that a feature "
            "that fires in a text is aligned",
            places=("tiles", "alignment", "eval"),
            better="more",
        ),
        Measure(
            "aligned_energy",
            "aligned, energy",
            "share",
            "the aligned share with every live feature weighted by the squared length of what it adds",
            places=("tiles", "eval"),
        ),
        Measure(
            "aligned_live_embedding",
            "aligned to W_E, live",
            "share",
            "share of live features whose cosine to the raw embedding row of their name is at least 0.8",
            places=("tiles", "alignment"),
        ),
        Measure(
            "aligned_firing_embedding",
            "aligned to W_E, firings",
            "share",
            "the same with every live feature counted once a firing",
            places=("tiles", "alignment"),
        ),
        Measure(
            "holds_live",
            "name holds",
            "share",
            "share of live features whose name with a relation is specific or partial: at least a tenth of "
            "their firings, and five times chance, on passages that did not choose the name",
            absent=_NOT_JUDGED,
            places=("tiles", "table", "plot", "eval"),
            better="more",
        ),
        Measure(
            "holds_tested",
            "name holds, tested",
            "share",
            "the same of the live features that fired often enough to be tested",
            absent=_NOT_JUDGED,
            places=("tiles",),
        ),
        Measure(
            "holds_firing",
            "name holds, firings",
            "share",
            "the same with every live feature counted once a firing",
            absent=_NOT_JUDGED,
            places=("tiles", "table", "plot", "eval"),
            better="more",
        ),
        Measure(
            "specific_live",
            "specific",
            "share",
            "share of live features whose name is specific: at least half of their firings",
            absent=_NOT_JUDGED,
            places=("tiles", "table", "plot", "eval"),
            better="more",
        ),
        Measure(
            "tested_live",
            "tested",
            "share",
            "share of live features with at least 20 firings in 5 passages to judge a name on",
            absent=_NOT_JUDGED,
            places=("tiles",),
        ),
        Measure(
            "share_tested",
            "share, median",
            "share",
            "median, over the live features tested, of the share of firings that the name accounts for",
            absent=_NOT_JUDGED,
            places=("tiles", "table"),
            better="more",
        ),
        Measure(
            "chance_tested",
            "chance, median",
            "share",
            "median, over the same features, of what chance gives their names",
            absent=_NOT_JUDGED,
            places=("tiles", "table"),
        ),
        Measure(
            "finds",
            "finds",
            "share",
            "share of the words with at least 10 occurrences in the judged passages that a feature detects: "
            "its name is on the word, and its F1 as a detector of the word is at least 0.5",
            absent=_NOT_JUDGED,
            places=("tiles", "table", "plot", "eval"),
            better="more",
        ),
        Measure(
            "writes",
            "writes",
            "share",
            "share of up to 200 content words drawn by seed whose probability the best feature for the word, "
            "by its write list, raises by more than every control at a KL divergence of 0.5 nats: 24 other "
            "features and the word's raw embedding",
            absent=_NOT_STEERED,
            places=("tiles", "table", "plot", "eval"),
            better="more",
        ),
        Measure(
            "writes_over_features",
            "writes, embedding aside",
            "share",
            "the same against the other features alone",
            absent=_NOT_STEERED,
            places=("tiles", "eval"),
        ),
        Measure(
            "writes_logit",
            "writes, by the logit lens",
            "share",
            "the same as writes where the logit lens chooses the feature",
            absent=_NOT_STEERED,
            places=("tiles", "eval"),
        ),
        Measure(
            "writes_rows",
            "token rows write",
            "share",
            "the same as writes with the word's row of the token look-up in place of a feature",
            absent="where there is no token look-up, or no steering",
            places=("tiles", "eval"),
        ),
        Measure(
            "write_steering",
            "write lists, steering",
            "share",
            "share of the features tested whose first written token rises by more than every control; 4 % "
            "by chance",
            absent=_NOT_STEERED,
            places=("tiles",),
        ),
        Measure(
            "write_ablation",
            "write lists, ablation",
            "share",
            "share of the features tested of whose first three written tokens one is among the five that "
            "ablation lowers most, in at least a fifth of the contexts and beyond chance",
            absent=_NOT_STEERED,
            places=("tiles",),
        ),
        Measure(
            "half_live",
            "half on the anchor",
            "share",
            "share of live features with at least half of their firings on the nearest anchor's token or its "
            "family",
            places=("tiles",),
        ),
        Measure(
            "coverage",
            "coverage",
            "share",
            "share of the tokens that occur in the text which name a live, aligned feature",
            places=("tiles", "eval"),
            better="more",
        ),
        Measure(
            "ablation_top1",
            "ablation, top 1",
            "share",
            "mean over the live features tested of the share of contexts where, without the feature, the "
            "name's logit falls most of all tokens'",
            absent=_NO_PASS,
            places=("tiles",),
        ),
        Measure(
            "ablation_top5",
            "ablation, top 5",
            "share",
            "the same for the five logits that fall most",
            absent=_NO_PASS,
            places=("tiles",),
        ),
        Measure(
            "random_cosine",
            "random cosine",
            "cosine",
            "mean nearest-anchor cosine of random directions of equal covariance: what a name is worth by "
            "chance",
            places=("tiles", "alignment"),
        ),
        Measure(
            "fve_text",
            "FVE, indexed text",
            "fraction",
            "fraction of variance explained on a sample of the indexed text. Below about 0.5 the dictionary "
            "is hardly read on the layer, model and scale that it was trained on",
            absent="where an import brought no weights",
            places=("tiles",),
            better="more",
        ),
        Measure(
            "fve",
            "FVE, held out",
            "fraction",
            "fraction of variance explained: 1 − Σ‖x − x̂‖² / Σ‖x − μ‖² on held-out tokens",
            absent=_NOT_RECORDED,
            places=("tiles", "table", "plot", "eval"),
            better="more",
        ),
        Measure(
            "delta_ce",
            "ΔCE, held out",
            "nats",
            "rise of the model's cross-entropy with the reconstruction in place of the residual stream, nats "
            "a token, on held-out tokens",
            interval="delta_ce_ci",
            absent=_NOT_RECORDED,
            places=("tiles", "table", "plot", "eval"),
            better="less",
        ),
        Measure(
            "dense_share",
            "dense share",
            "share",
            "part of the explained energy that goes through the dense path, and so through no named feature",
            absent=_NOT_RECORDED,
            places=("tiles", "eval"),
        ),
        Measure(
            "lookup_share",
            "look-up share",
            "share",
            "part of the explained energy that the token look-up gives, which no feature fires for",
            absent=_NOT_RECORDED,
            places=("tiles", "eval"),
        ),
        Measure("index_tokens", "tokens indexed", "tokens", "corpus tokens indexed"),
    ]
)

DERIVED = by_name(
    [
        Measure(
            "finds_rows",
            "token rows find",
            "share",
            "share of the words with at least 10 occurrences in the indexed text that one row of the token "
            "look-up detects with an F1 of at least 0.5. A row stands for one spelling by construction: it "
            "misses only words of several spellings and those that the training text lacks",
            absent="where there is no token look-up",
        ),
    ]
)
"""those that follow from the tables of an index: records have them, columns do not"""

RECORDED = tuple(name for name, measure in DICTIONARY.items() if measure.absent == _NOT_RECORDED)
"""those that the index takes from the checkpoint's metrics.json"""
