"""What Neuronpedia's shapes say of a feature, in exports and over REST alike: fields that the index has no
values for, the words of its explanation, histograms.
"""

from collections.abc import Sequence

import numpy as np

from lexiscope.records import VERDICT_WORDS, Verdict

EXPLANATION_TYPE, EXPLANATION_MODEL = "lexiscope_vocabulary-name", "lexiscope_no-language-model"
DEFAULT_STRENGTH = 10
"""Neuronpedia's steering strength of a feature that has none of its own"""
EMPTY_FEATURE_FIELDS = (
    *("neuron_alignment_indices", "neuron_alignment_values", "neuron_alignment_l1"),
    *("correlated_neurons_indices", "correlated_neurons_pearson", "correlated_neurons_l1"),
    *("correlated_features_indices", "correlated_features_pearson", "correlated_features_l1"),
    *("logits_hist_data_bar_heights", "logits_hist_data_bar_values", "decoder_weights_dist"),
)
"""Fields of Neuronpedia's features that the index has no values for."""


def description(
    anchor: str, relation: str | None, words: Sequence[str], share: float | None, verdict: Verdict
) -> str:
    """An explanation: what the feature fires on (the nearest anchor where that is not known), and the
    verdict.
    """
    fires = anchor if share is None else f"fires {relation} {', '.join(words)} ({share:.0%} of its firings)"
    return f"{fires} · {VERDICT_WORDS[verdict]}"


def notes(anchor: str, token: int, anchor_kind: str, cosine: float) -> str:
    """Where the name comes from."""
    return (
        f"Nearest anchor: {anchor} (token {token}, {anchor_kind}), at cosine {cosine:.2f}; no language model "
        "wrote this."
    )


def frequency_bars(edges: Sequence[float], counts: Sequence[int]) -> tuple[list[float], list[int]]:
    """The geometric middles and the heights of a histogram's bins, from the first to the last that is not
    empty.
    """
    filled = np.flatnonzero(counts)
    if not len(filled):
        return [], []
    bins = slice(int(filled[0]), int(filled[-1]) + 1)
    ends = np.asarray(edges)
    return short(np.sqrt(ends[:-1] * ends[1:])[bins]), list(counts[bins])


def short_number(value: float) -> float:
    """The shortest decimal that reads back as the same 32-bit number."""
    return float(str(np.float32(value)))


def short(values: Sequence[float] | np.ndarray) -> list[float]:
    return [short_number(value) for value in values]
