"""From what was learned of a dictionary to the rows of its features, as an Arrow table in the store's columns
(store/schema.py).
"""

from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from indexer.counts.state import Learned
from indexer.counts.token_counts import Lift
from indexer.rows.ablation import Causal
from indexer.rows.geometry import Geometry, LogitEffect
from lexiscope.anchors import Names, bucket
from lexiscope.evidence import Evidence

CAUSAL_COLUMNS = tuple(column for column in Causal._fields if column not in ("p_ablation", "parameters"))
NO_NEIGHBOURS = Names(torch.zeros(0, 0), torch.zeros(0, 0))
BEATS = 2.6
"""Standard errors by which another token must take more firings than the name."""


def feature_table(
    *,
    dictionary_id: int,
    anchor_kind: str,
    seen: Learned,
    geometry: Geometry,
    assigned: Tensor,
    logits: LogitEffect,
    evidence: Evidence,
    lift: Lift,
    live: Tensor,
    relations: dict[str, list[tuple[list[int], list[float]]]],
    causal: Causal | None,
    folded: list[str],
    occurrences: np.ndarray,
) -> pa.Table:
    """One row a feature; `relations` holds by column stem (neighbour, previous_coactive, …) an (indices,
    scores) pair a feature.

    `folded` and `occurrences` are of the vocabulary. Without `causal` the ablation pass was not run.
    """
    s = seen.statistics
    names, cosines = geometry.names.tokens, geometry.names.cosines
    fired = s.count > 0
    n = np.maximum(s.count, 1)
    same = torch.bincount(names[:, 0])[names[:, 0]]
    beats = lift.hits - lift.name_hits > noise(lift.hits, lift.name_hits)
    beats &= lift.token != names[:, 0].numpy()
    moments = s.moments()
    family = np.unique(np.array(folded, dtype=object), return_inverse=True)[1][names[:, 0].numpy()]
    follows = s.logit_hits
    n_tokens = max(int(occurrences.sum()), 1)
    columns: dict[str, Any] = {
        "dictionary_id": np.full(len(fired), dictionary_id),
        "index": np.arange(len(fired)),
        "name_token": names[:, 0].numpy(),
        "assigned_token": _maybe(assigned.numpy(), assigned.numpy() >= 0),
        "anchor_kind": [anchor_kind] * len(fired),
        "cosine": cosines[:, 0].numpy(),
        "cosine_assigned": _maybe(geometry.cosine_assigned.numpy(), assigned.numpy() >= 0),
        "cosine_embedding": geometry.cosine_embedding.numpy(),
        "margin": (cosines[:, 0] - cosines[:, 1]).numpy(),
        "bucket": [bucket(cosine) for cosine in cosines[:, 0].tolist()],
        "next_tokens": _lists(names[:, 1:]),
        "next_cosines": _lists(cosines[:, 1:]),
        "phrase_tokens": [[token for token in row if token >= 0] for row in geometry.phrases.tokens.tolist()],
        "phrase_cosine": geometry.phrases.cosines.numpy(),
        "n_same_name": same.numpy(),
        "n_same_family": np.bincount(family)[family],
        "live": live.numpy(),
        "verdict": evidence.verdict(live),
        "density": s.count / n_tokens,
        "n_firings": s.count,
        "mean_activation": s.mean,
        "max_activation": s.max,
        "std_activation": _maybe(moments.std, moments.known),
        "skewness": _maybe(moments.skewness, moments.known),
        "kurtosis": _maybe(moments.kurtosis, moments.known),
        "histogram": _lists(s.histogram),
        "positions": _lists(s.positions),
        "pos_tokens": _lists(logits.positive.tokens),
        "pos_values": _lists(logits.positive.cosines),
        "neg_tokens": _lists(logits.negative.tokens),
        "neg_values": _lists(logits.negative.cosines),
        "name_rank": logits.rank.numpy(),
        "recall": _maybe(evidence.recall.numpy(), fired),
        "q_reads": _maybe(evidence.q_reads.numpy(), fired),
        "q_predicts": _maybe(evidence.q_predicts.numpy(), fired),
        "supported": evidence.supported.numpy(),
        "lift_token": _maybe(lift.token, fired),
        "lift_share": _maybe(lift.hits / np.maximum(lift.counted, 1), fired),
        "beats_name": beats & fired,
        "logit_share": _maybe(follows / n, fired),
        "logit_beats_name": fired
        & follows_more(
            follows,
            evidence.share["predicts"].numpy() * n,
            logits.positive.tokens[:, 0],
            names[:, 0],
            n,
            occurrences,
        ),
    }
    for column in CAUSAL_COLUMNS:
        kind = pa.int32() if column == "ablation_contexts" else pa.float32()
        columns[column] = (
            pa.nulls(len(fired), kind) if causal is None else _measured(getattr(causal, column), kind)
        )
    for column, kind in (
        ("reads_here", "here"),
        ("reads_family", "family"),
        ("reads_near", "near"),
        ("predicts", "predicts"),
    ):
        columns[column] = _maybe(evidence.share[kind].numpy(), fired)
        columns[column + "_null"] = _maybe(evidence.null[kind].numpy(), fired)
    for relation, pairs in relations.items():
        columns[relation + "_index"] = pa.array([indices for indices, _ in pairs], pa.list_(pa.int32()))
        score = "_jaccard" if relation.endswith("coactive") else "_cosine"
        columns[relation + score] = pa.array([values for _, values in pairs], pa.list_(pa.float32()))
    return pa.table(columns)


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


def _lists(matrix: np.ndarray | Tensor) -> pa.ListArray:
    """[n, m] as n lists."""
    values = matrix.numpy() if isinstance(matrix, Tensor) else matrix
    n, m = values.shape
    return pa.ListArray.from_arrays(
        np.arange(0, n * m + 1, max(m, 1), dtype=np.int32), np.ascontiguousarray(values).reshape(-1)
    )


def _measured(values: Tensor, kind: pa.DataType) -> pa.Array:
    """NaN, or −1 among whole numbers, is absent."""
    absent = values.isnan() if values.is_floating_point() else values < 0
    return pa.array(values.numpy(), mask=absent.numpy()).cast(kind)


def _maybe(values: np.ndarray, known: np.ndarray) -> pa.Array:
    return pa.array(values, mask=~known)


def relation_pairs(found: Names, features: Tensor, d_sae: int) -> list[tuple[list[int], list[float]]]:
    """Neighbours found for `features`, spread over all d_sae (empty elsewhere)."""
    pairs: list[tuple[list[int], list[float]]] = [([], [])] * d_sae
    for feature, indices, cosines in zip(
        features.tolist(), found.tokens.tolist(), found.cosines.tolist(), strict=True
    ):
        pairs[feature] = (indices, [round(cosine, 4) for cosine in cosines])
    return pairs
