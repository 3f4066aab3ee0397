"""Measures of a dictionary on held-out text: the keys of `metrics.json`."""

from lexiscope.measures.dictionary import DICTIONARY
from lexiscope.measures.measure import Measure, by_name

RUN = by_name(
    [
        Measure("protocol", "protocol", "text", "which positions are encoded and patched"),
        Measure("tokens", "tokens", "tokens", "held-out tokens encoded", places=("eval",)),
        Measure(
            "ce_tokens",
            "tokens scored",
            "tokens",
            "held-out tokens on which the model was run with the reconstruction patched in",
            places=("eval",),
        ),
        Measure("passages", "passages", "text", "fingerprint of the passages scored"),
        Measure("seed", "seed", "text", "seed of the training run"),
        DICTIONARY["l0"],
        DICTIONARY["fve"],
        Measure("nmse", "NMSE", "fraction", "normalised mean squared error, 1 − FVE"),
        Measure("ce", "CE", "nats", "cross-entropy of the model, nats a token"),
        Measure("ce_sae", "CE, patched", "nats", "cross-entropy with the reconstruction patched in"),
        DICTIONARY["delta_ce"],
        Measure(
            "delta_ce_ci",
            "ΔCE, 95 % interval",
            "list",
            "[low, high] of delta_ce: bootstrap over passages",
        ),
        Measure(
            "kl",
            "KL",
            "nats",
            "KL(default ‖ patched) of the next-token distributions, nats a token",
            places=("eval",),
        ),
        Measure(
            "ce_recovered_zero",
            "CE recovered, zero",
            "fraction",
            "(CE of zero ablation − CE patched) / (CE of zero ablation − CE)",
        ),
        Measure(
            "ce_recovered_mean",
            "CE recovered, mean",
            "fraction",
            "(CE of mean ablation − CE patched) / (CE of mean ablation − CE); for recipes that do not "
            "centre, as the paper's, the mean is not kept, and zero stands for it",
        ),
        Measure(
            "logit_lens_agreement",
            "logit-lens agreement",
            "share",
            "share of positions where the top token of unembed(norm(x̂)) is that of unembed(norm(x))",
        ),
        DICTIONARY["d_sae"],
        DICTIONARY["n_live"],
        DICTIONARY["dead_share"],
        Measure(
            "vocab_seen",
            "vocabulary seen",
            "share",
            "share of the vocabulary that occurs in the training text at least once in 100,000 tokens",
        ),
        Measure(
            "dead_share_seen",
            "dead, of seen tokens",
            "share",
            "the dead share of the features of tokens that occur at that rate",
            places=("eval",),
        ),
        DICTIONARY["dense_share"],
        DICTIONARY["lookup_share"],
        DICTIONARY["aligned_all"],
        DICTIONARY["aligned_live"],
        DICTIONARY["aligned_firing"],
        DICTIONARY["aligned_energy"],
        Measure(
            "aligned_live_embedding",
            "aligned, W_E",
            "share",
            "share of live features whose cosine to the nearest row of raw W_E, centred, is at least 0.8",
        ),
        DICTIONARY["coverage"],
        Measure(
            "name_is_assigned",
            "anchor is assigned",
            "share",
            "share of the live features with an assigned token whose nearest anchor is that token's",
        ),
        Measure(
            "reads_precision",
            "reads",
            "share",
            "share of firings on the nearest anchor's token, over all live features",
            chance="reads_null",
            places=("eval",),
        ),
        Measure(
            "reads_family",
            "reads its family",
            "share",
            "share of firings on the nearest anchor's token or its family, over all live features",
            chance="reads_family_null",
            places=("eval",),
        ),
        Measure(
            "predicts_precision",
            "predicts",
            "share",
            "share of firings that the nearest anchor's token follows, over all live features",
            chance="predicts_null",
            places=("eval",),
        ),
        DICTIONARY["holds_live"],
        DICTIONARY["holds_tested"],
        DICTIONARY["holds_firing"],
        DICTIONARY["specific_live"],
        DICTIONARY["tested_live"],
        DICTIONARY["share_tested"],
        DICTIONARY["chance_tested"],
        DICTIONARY["finds"],
        Measure(
            "supported_live",
            "supported",
            "share",
            "share of live features whose firings support the nearest anchor's token (they read it or "
            "predict it) beyond chance, at a false discovery rate of 5 %",
            places=("table", "eval"),
        ),
        Measure(
            "supported_firing",
            "supported, firings",
            "share",
            "the supported share with every live feature counted once a firing",
            places=("eval",),
        ),
        Measure(
            "supported_permuted",
            "supported, permuted",
            "share",
            "the supported share when nearest anchors are permuted among the live features: at most 5 % if "
            "the test is right",
            places=("eval",),
        ),
        Measure(
            "supported_permuted_firing",
            "supported, permuted, firings",
            "share",
            "the same with every live feature counted once a firing",
            places=("eval",),
        ),
        Measure(
            "passage_delta_ce",
            "ΔCE by passage",
            "list",
            "[rise of cross-entropy in nats, tokens] of each passage, in order: what paired intervals need",
        ),
    ]
)
"""`metrics.json` holds beside them a block `named_<kind>` for each other token that a feature can be called
by (`lift`, `lens`, `assigned`): some of the same measures, of that token instead of the nearest anchor's.
"""
