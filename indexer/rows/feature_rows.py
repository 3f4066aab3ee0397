"""The rows of `feature`: what was learned of each feature of a dictionary."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from indexer.rows.columns import rows
from indexer.rows.dictionary_rows import Indexed
from lexiscope.anchors import NearestTokens

NO_NEIGHBOURS = NearestTokens(torch.zeros(0, 0), torch.zeros(0, 0))
BEATS = 2.6
"""Standard errors by which another token must take more firings than the name."""

Pairs = list[tuple[list[int], list[float]]]
"""(indices, scores) of each feature"""


def feature_table(
    found: Indexed, relations: Mapping[str, Pairs], *, folded: list[str], occurrences: np.ndarray
) -> pa.Table:
    """One row a feature; `relations` by the beginning of their columns' names (neighbour, previous_coactive,
    …). `folded` and `occurrences` are of the vocabulary.

    Measures come by name from what computed them, and columns from there on are those of
    `lexiscope.measures.FEATURE`.
    """
    statistics, first = found.learned.statistics, found.named.names.tokens[:, 0].numpy()
    n = len(first)
    columns: dict[str, Any] = {
        "dictionary_id": np.full(n, found.dictionary_id),
        "index": np.arange(n),
        "anchor_kind": [found.member.anchor_kind] * n,
        "name_token": first,
        "assigned_token": found.assigned,
        "live": found.live,
        "verdict": found.evidence.verdict(found.live),
        "histogram": statistics.histogram,
        "positions": statistics.positions,
        **found.shape.columns(),
        **found.named.effect.columns(),
        **_shared_names(first, folded),
        **statistics.measures(int(occurrences.sum())),
        **found.evidence.measures(),
        **_rival_names(found, occurrences),
        **({} if found.causal is None else found.causal.measures()),
    }
    for relation, pairs in relations.items():
        score = "jaccard" if relation.endswith("coactive") else "cosine"
        columns[f"{relation}_index"] = pa.array([indices for indices, _ in pairs], pa.list_(pa.int32()))
        columns[f"{relation}_{score}"] = pa.array([values for _, values in pairs], pa.list_(pa.float32()))
    return rows("feature", columns)


def _shared_names(names: np.ndarray, folded: list[str]) -> dict[str, np.ndarray]:
    family = np.unique(np.array(folded, dtype=object), return_inverse=True)[1][names]
    return {"n_same_name": np.bincount(names)[names], "n_same_family": np.bincount(family)[family]}


def _rival_names(found: Indexed, occurrences: np.ndarray) -> dict[str, np.ndarray]:
    """The names that firings and logits would give, and whether they do better than the feature's own."""
    statistics, evidence, names = found.learned.statistics, found.evidence, found.named.names.tokens[:, 0]
    fired, n = statistics.count > 0, np.maximum(statistics.count, 1)
    lift = found.learned.tokens.lift(names.numpy(), occurrences)
    beats = lift.hits - lift.name_hits > noise(lift.hits, lift.name_hits)
    named, follows = evidence.share["predicts"].numpy() * n, statistics.logit_hits
    top = found.named.effect.positive.tokens[:, 0]
    return {
        "lift_token": np.where(fired, lift.token, -1),
        "lift_share": np.where(fired, lift.hits / np.maximum(lift.counted, 1), np.nan),
        "beats_name": beats & (lift.token != names.numpy()) & fired,
        "logit_share": np.where(fired, follows / n, np.nan),
        "logit_beats_name": fired & follows_more(follows, named, top, names, n, occurrences),
    }


def follows_more(
    follows: np.ndarray,
    named: np.ndarray,
    tokens: Tensor,
    names: Tensor,
    n: np.ndarray,
    occurrences: np.ndarray,
) -> np.ndarray:
    """[d_sae] bool: of n firings each, `tokens` come next at `follows`, and `names` at `named`: more than
    noise, both as counted and with what each token's rate in the text would give taken off (a rare name must
    not win by being rare, nor a frequent one lose to a token that never follows).
    """
    rate = occurrences / max(occurrences.sum(), 1)
    more = follows - named
    excess = more - n * (rate[tokens.numpy()] - rate[names.numpy()])
    return (np.minimum(more, excess) > noise(follows, named)) & (tokens != names).numpy()


def noise(hits: np.ndarray, others: np.ndarray) -> np.ndarray:
    """What the difference of two counts must exceed: BEATS standard errors."""
    return BEATS * np.sqrt(np.maximum(hits + others, 1))


def relation_pairs(near: NearestTokens, features: Tensor, d_sae: int) -> Pairs:
    """The neighbours of `features`, spread over all d_sae (empty elsewhere)."""
    pairs: Pairs = [([], [])] * d_sae
    for feature, indices, cosines in zip(
        features.tolist(), near.tokens.tolist(), near.cosines.tolist(), strict=True
    ):
        pairs[feature] = (indices, [round(cosine, 4) for cosine in cosines])
    return pairs
