"""From what was learned to the rows of the index, as Arrow tables in the store's columns (store/schema.py)."""

from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from indexer.corpus import NEAR_MISSES, SAMPLED, TOP, Observed
from indexer.geometry import Geometry, LogitEffect
from indexer.pools import Pool
from indexer.statistics import Lift
from lexiscope.anchors import Names, bucket
from lexiscope.evidence import Evidence

QUANTILES = 5
CAUSAL_COLUMNS = (
    *("ablation_rank", "ablation_top1", "ablation_top1_null", "ablation_top5", "ablation_top5_null", "q_ablation", "ablation_contexts"),
    *("input_score", "input_score_null", "output_score", "output_score_null"),
)
NO_NEIGHBOURS = Names(torch.zeros(0, 0), torch.zeros(0, 0))


def feature_table(
    *,
    dictionary_id: int,
    anchor_kind: str,
    seen: Observed,
    geometry: Geometry,
    assigned: Tensor,
    logits: LogitEffect,
    evidence: Evidence,
    lift: Lift,
    live: Tensor,
    relations: dict[str, list[tuple[list[int], list[float]]]],
    folded: list[str],
    occurrences: np.ndarray,
) -> pa.Table:
    """One row a feature; `relations` holds neighbour, previous and next, each a (indices, cosines) pair a feature."""
    s = seen.statistics
    names, cosines = geometry.names.tokens, geometry.names.cosines
    fired = s.count > 0
    n = np.maximum(s.count, 1)
    same = torch.bincount(names[:, 0])[names[:, 0]]
    hits = evidence.share["here"].numpy() * n
    beats = (lift.hits - hits) > 2.6 * np.sqrt(np.maximum(lift.hits + hits, 1))
    beats &= lift.token != names[:, 0].numpy()
    moments = s.moments()
    family = np.unique(np.array(folded, dtype=object), return_inverse=True)[1][names[:, 0].numpy()]
    follows = seen.logit_hits.numpy()
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
        "next_tokens": names[:, 1:].tolist(),
        "next_cosines": cosines[:, 1:].tolist(),
        "phrase_tokens": [[token for token in row if token >= 0] for row in geometry.phrases.tokens.tolist()],
        "phrase_cosine": geometry.phrases.cosines.numpy(),
        "n_same_name": same.numpy(),
        "n_same_family": np.bincount(family)[family],
        "live": live.numpy(),
        "verdict": evidence.verdict(live),
        "density": s.count / max(s.n_tokens, 1),
        "n_firings": s.count,
        "mean_activation": np.where(fired, s.total / n, 0),
        "max_activation": s.max,
        "std_activation": _maybe(moments.std, moments.known),
        "skewness": _maybe(moments.skewness, moments.known),
        "kurtosis": _maybe(moments.kurtosis, moments.known),
        "histogram": s.histogram.tolist(),
        "positions": s.positions.tolist(),
        "pos_tokens": logits.positive.tokens.tolist(),
        "pos_values": logits.positive.cosines.tolist(),
        "neg_tokens": logits.negative.tokens.tolist(),
        "neg_values": logits.negative.cosines.tolist(),
        "name_rank": logits.rank.numpy(),
        "recall": _maybe(evidence.recall.numpy(), fired),
        "q_reads": _maybe(evidence.q_reads.numpy(), fired),
        "q_predicts": _maybe(evidence.q_predicts.numpy(), fired),
        "supported": evidence.supported.numpy(),
        "lift_token": _maybe(lift.token, fired),
        "lift_share": _maybe(lift.hits / n, fired),
        "beats_name": beats & fired,
        "logit_share": _maybe(follows / n, fired),
        "logit_beats_name": _logit_beats_name(follows, evidence, logits.positive.tokens[:, 0], names[:, 0], n, occurrences) & fired,
    }
    for column in CAUSAL_COLUMNS:
        columns[column] = pa.nulls(len(fired), pa.int32() if column == "ablation_contexts" else pa.float32())
    for relation in ("previous_coactive", "next_coactive"):
        columns[relation + "_index"] = columns[relation + "_jaccard"] = [[]] * len(fired)
    for column, kind in (("reads_here", "here"), ("reads_family", "family"), ("reads_near", "near"), ("predicts", "predicts")):
        columns[column] = _maybe(evidence.share[kind].numpy(), fired)
        columns[column + "_null"] = _maybe(evidence.null[kind].numpy(), fired)
    for relation, pairs in relations.items():
        columns[relation + "_index"] = [indices for indices, _ in pairs]
        columns[relation + "_cosine"] = [values for _, values in pairs]
    return pa.table(columns)


def _logit_beats_name(
    follows: np.ndarray, evidence: Evidence, logit_tokens: Tensor, names: Tensor, n: np.ndarray, occurrences: np.ndarray
) -> np.ndarray:
    """Each token's firings that it follows, less those its rate in the text gives, differ by more than 2.6 standard errors."""
    rate = occurrences / max(occurrences.sum(), 1)
    named = evidence.share["predicts"].numpy() * n
    excess = (follows - n * rate[logit_tokens.numpy()]) - (named - n * rate[names.numpy()])
    return (excess > 2.6 * np.sqrt(np.maximum(follows + named, 1))) & (logit_tokens != names).numpy()


def _maybe(values: np.ndarray, known: np.ndarray) -> pa.Array:
    return pa.array(values, mask=~known)


def relation_pairs(found: Names, features: Tensor, d_sae: int) -> list[tuple[list[int], list[float]]]:
    """Neighbours found for `features`, spread over all d_sae (empty elsewhere)."""
    pairs: list[tuple[list[int], list[float]]] = [([], [])] * d_sae
    for feature, indices, cosines in zip(features.tolist(), found.tokens.tolist(), found.cosines.tolist(), strict=True):
        pairs[feature] = (indices, [round(cosine, 4) for cosine in cosines])
    return pairs


def context_table(seen: Observed, passages: list[np.ndarray], *, dictionary_id: int, first_passage: int) -> tuple[pa.Table, np.ndarray]:
    """One row a context, sorted by feature; also the indices of the passages they point into."""
    parts = [
        _entries(seen.top, "top", passages, limit=TOP),
        _quantiles(_entries(seen.sample, "quantile", passages, limit=SAMPLED)),
        _entries(seen.near_misses, "near_miss", passages, limit=NEAR_MISSES),
    ]
    table = pa.concat_tables(parts).sort_by([("feature", "ascending"), ("order", "ascending")])
    used = np.unique(table["passage"].to_numpy())
    passage = pa.array(table["passage"].to_numpy() + first_passage)
    table = table.set_column(table.column_names.index("passage"), "passage", passage).drop_columns(["order"])
    return table.append_column("dictionary_id", pa.array(np.full(len(table), dictionary_id))), used


def _entries(pool: Pool, kind: str, passages: list[np.ndarray], *, limit: int) -> pa.Table:
    """The pool's entries without those whose text, around the position, repeats a better one's of the same feature."""
    columns, around = pool.settled()
    keep, rank, seen, previous = [], [], set(), -1
    places = (columns[name].tolist() for name in ("feature", "passage", "position"))
    for row, (feature, passage, position) in enumerate(zip(*places, strict=True)):
        if feature != previous:
            seen, previous = set(), feature
        text = passages[passage][max(0, position - 8) : position + 5].tobytes()
        if text in seen or len(seen) == limit:
            continue
        seen.add(text)
        keep.append(row)
        rank.append(len(seen) - 1)
    rows = np.array(keep, dtype=np.int64)
    lengths = np.diff(around.starts)[rows]
    offsets = np.concatenate([[0], lengths.cumsum()]).astype(np.int32)
    flat = np.repeat(around.starts[:-1][rows] - offsets[:-1], lengths) + np.arange(offsets[-1])
    order = {"top": 0, "quantile": 1000, "near_miss": 2000}[kind]
    return pa.table(
        {
            "feature": columns["feature"][rows],
            "kind": pa.array([kind] * len(rows), pa.string()),
            "quantile": pa.array([None] * len(rows), pa.int32()),
            "rank": np.array(rank, dtype=np.int32),
            "order": np.array(rank, dtype=np.int64) + order,
            "passage": columns["passage"][rows],
            "position": columns["position"][rows],
            "value": columns["value"][rows],
            "positions": pa.ListArray.from_arrays(offsets, around.positions[flat].astype(np.int32)),
            "values": pa.ListArray.from_arrays(offsets, around.values[flat].astype(np.float32)),
        }
    )


def _quantiles(sample: pa.Table) -> pa.Table:
    """Cut each feature's uniform sample of firings, by activation, into QUANTILES equal parts, 0 the weakest."""
    feature, value = sample["feature"].to_numpy(), sample["value"].to_numpy()
    order = np.lexsort((value, feature))
    starts = np.flatnonzero(np.concatenate([[True], np.diff(feature[order]) != 0])) if len(order) else np.zeros(0, int)
    sizes = np.diff(np.concatenate([starts, [len(order)]]))
    nth = np.arange(len(order)) - np.repeat(starts, sizes)
    quantile = np.empty(len(order), np.int32)
    quantile[order] = nth * QUANTILES // np.maximum(np.repeat(sizes, sizes), 1)
    rank = np.empty(len(order), np.int64)
    rank[order] = np.repeat(sizes, sizes) - 1 - nth
    sample = sample.set_column(sample.column_names.index("quantile"), "quantile", pa.array(quantile))
    sample = sample.set_column(sample.column_names.index("rank"), "rank", pa.array(rank.astype(np.int32)))
    return sample.set_column(sample.column_names.index("order"), "order", pa.array(rank + 1000))


def passage_table(passages: list[np.ndarray], used: np.ndarray, *, first_passage: int, corpus: str) -> pa.Table:
    """The passages that contexts point into, by id."""
    return pa.table(
        {
            "passage_id": used + first_passage,
            "corpus": pa.array([corpus] * len(used), pa.string()),
            "tokens": [passages[index].tolist() for index in used],
        }
    )
