"""The rows of `feature`: everything known of each feature of a dictionary."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from torch import Tensor

from indexer.rows.analysis import AnalysedDictionary
from indexer.rows.columns import rows
from indexer.rows.relations import Pairs
from lexiscope.evidence import RELATIONS, RelationEvidence

NOISE = 2.6
"""Standard errors by which another token must take more firings than the name."""


def feature_table(
    analysed: AnalysedDictionary,
    relations: Mapping[str, Pairs],
    *,
    folded: list[str],
    occurrences: np.ndarray,
    shown: np.ndarray,
) -> pa.Table:
    """One row a feature; `relations` by the beginning of their columns' names (neighbour, previous_coactive,
    …); `folded` spelling and `occurrences` in the text of each token of the vocabulary, and the token by
    which each word is `shown`.

    Measures come by name from what computed them: a new one of `lexiscope.measures.FEATURE` needs no change
    here.
    """
    statistics, first = analysed.counts.statistics, analysed.named.first.numpy()
    n = len(first)
    columns: dict[str, Any] = {
        "dictionary_id": np.full(n, analysed.dictionary_id),
        "index": np.arange(n),
        "anchor_kind": [analysed.anchor_kind] * n,
        "name_token": first,
        "assigned_token": analysed.assigned,
        "live": analysed.live,
        **relation_columns(analysed.relations, shown),
        "histogram": statistics.histogram,
        "positions": statistics.positions,
        **analysed.geometry.columns(),
        **analysed.named.logits.columns(),
        **_write_lists(analysed, n),
        **_shared_names(first, folded),
        **statistics.measures(int(occurrences.sum())),
        **analysed.evidence.measures(),
        **_rival_names(analysed, occurrences),
        **_written(analysed, n),
        **({} if analysed.causal is None else analysed.causal.measures()),
    }
    for relation, pairs in relations.items():
        score = "jaccard" if relation.endswith("coactive") else "cosine"
        columns[f"{relation}_index"] = pa.array([indices for indices, _ in pairs], pa.list_(pa.int32()))
        columns[f"{relation}_{score}"] = pa.array([values for _, values in pairs], pa.list_(pa.float32()))
    return rows("feature", columns)


def _write_lists(analysed: AnalysedDictionary, n: int) -> dict[str, Any]:
    if analysed.writes is None:
        return {"write_tokens": [[]] * n, "write_values": [[]] * n}
    return {"write_tokens": analysed.writes.tokens, "write_values": analysed.writes.cosines}


def _written(analysed: AnalysedDictionary, n: int) -> dict[str, Any]:
    """What interventions say of the write lists."""
    if analysed.causal is None:
        verdict = np.where(analysed.live, "untested", "dead").tolist()
        return {"write_ranks": [[]] * n, "write_rises": [[]] * n, "write_verdict": verdict}
    written = analysed.causal.written
    lists = {"write_ranks": written.ranks, "write_rises": written.rises}
    return {"write_verdict": written.verdict.tolist()} | {
        name: [[] if absent else row for row, absent in zip(values.tolist(), nothing, strict=True)]
        for name, values in lists.items()
        for nothing in [values[:, 0].isnan().tolist()]
    }


def relation_columns(evidence: RelationEvidence, shown: np.ndarray) -> dict[str, Any]:
    """What each feature fires on; shown [vocab] the token of each word."""
    names, judged = evidence.names, evidence.judged
    known = names.words >= 0
    starts = np.concatenate([[0], known.sum(1).cumsum()]).astype(np.int32)
    shares = np.round(judged.cumulative[known], 4).astype(np.float32)
    relations = pa.array(RELATIONS).take(pa.array(names.relation, mask=names.relation < 0))
    return {
        "relation": relations,
        "word_tokens": pa.ListArray.from_arrays(starts, shown[names.words[known]].astype(np.int32)),
        "word_shares": pa.ListArray.from_arrays(starts, shares),
        "verdict": evidence.verdict.tolist(),
        **evidence.measures(),
    }


def _shared_names(names: np.ndarray, folded: list[str]) -> dict[str, np.ndarray]:
    family = np.unique(np.array(folded, dtype=object), return_inverse=True)[1][names]
    return {"n_same_name": np.bincount(names)[names], "n_same_family": np.bincount(family)[family]}


def _rival_names(analysed: AnalysedDictionary, occurrences: np.ndarray) -> dict[str, np.ndarray]:
    """The names that firings and logits would give, and whether they do better than the feature's own."""
    statistics, evidence, names = analysed.counts.statistics, analysed.evidence, analysed.named.first
    fired, n = statistics.count > 0, np.maximum(statistics.count, 1)
    lift = analysed.counts.tokens.lift(names.numpy(), occurrences)
    beats = lift.hits - lift.name_hits > noise(lift.hits, lift.name_hits)
    follows, judged = statistics.logit_hits / n, evidence.firings.numpy()
    named = evidence.share["predicts"].numpy() * judged  # the name was judged on some firings alone
    top = analysed.named.logits.positive.tokens[:, 0]
    return {
        "lift_token": np.where(fired, lift.token, -1),
        "lift_share": np.where(fired, lift.hits / np.maximum(lift.counted, 1), np.nan),
        "beats_name": beats & (lift.token != names.numpy()) & fired,
        "logit_share": np.where(fired, follows, np.nan),
        "logit_beats_name": follows_more(follows * judged, named, top, names, judged, occurrences),
    }


def follows_more(
    follows: np.ndarray,
    named: np.ndarray,
    tokens: Tensor,
    names: Tensor,
    n: np.ndarray,
    occurrences: np.ndarray,
) -> np.ndarray:
    """[d_sae] bool: do `tokens`, which come next at `follows` of n firings, come next more often than
    `names`, which do at `named` of them?

    The difference must exceed noise both as counted and after subtracting what each token's rate in the text
    would give: a rare name must not win by being rare, nor a frequent one lose to a token that never follows.
    """
    rate = occurrences / max(occurrences.sum(), 1)
    more = follows - named
    excess = more - n * (rate[tokens.numpy()] - rate[names.numpy()])
    return (np.minimum(more, excess) > noise(follows, named)) & (tokens != names).numpy()


def noise(hits: np.ndarray, others: np.ndarray) -> np.ndarray:
    """What the difference of two counts must exceed: NOISE standard errors."""
    return NOISE * np.sqrt(np.maximum(hits + others, 1))
