"""The store's rows for an imported dictionary. What the files do not tell is NULL, empty or zero, never made
up.

Density, activations and histogram are of the run that wrote the files; firings and evidence are of the
imported contexts alone.
"""

import json
from collections import Counter
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch

from indexer.counts.activation_statistics import EDGES
from indexer.exchange.neuronpedia.choose_contexts import Chosen, Texts
from indexer.exchange.neuronpedia.contents import Dashboards, Feature
from indexer.exchange.neuronpedia.imported_evidence import Behaviour, Judged
from indexer.exchange.neuronpedia.name_by_direction import Named
from indexer.rows.columns import filled
from indexer.rows.dictionary_rows import distributions, name_shares
from indexer.rows.feature_rows import noise
from lexiscope.anchors import bucket
from lexiscope.language_model import LanguageModel, hook_name
from lexiscope.tokens import Vocabulary

LIVE = 1e-5
"""Density from which a feature is live (METHOD.md §5)."""


class Names(NamedTuple):
    """What each row is called."""

    tokens: np.ndarray
    kinds: list[str]
    """where each name is from, in words"""
    geometry: Named | None


def feature_rows(
    dictionary_id: int,
    found: Dashboards,
    index: np.ndarray,
    ids: np.ndarray,
    names: Names,
    judged: Judged,
    live: np.ndarray,
    maxima: np.ndarray,
    model: LanguageModel,
) -> pa.Table:
    n, features = len(index), [found.features[int(number)] for number in index]
    evidence, fired = judged.evidence, judged.evidence.firings.numpy() > 0
    vocabulary = Vocabulary(model.tokenizer, model.vocab_size)
    family = [vocabulary.folded()[token] if token >= 0 else "" for token in names.tokens] if n else []
    name_counts, family_counts = Counter(names.tokens.tolist()), Counter(family)
    here = evidence.share["reads_here"].numpy() * evidence.firings.numpy()
    next_hits = evidence.share["predicts"].numpy() * evidence.firings.numpy()
    lift_hits, logit_hits = judged.lift.hits.numpy(), judged.logit_share * evidence.firings.numpy()
    lifted = judged.lift.tokens.numpy()
    positive = [[int(ids[token]) for token, _ in feature.positive] for feature in features]
    columns: dict[str, Any] = {
        "dictionary_id": np.full(n, dictionary_id),
        "index": index,
        "name_token": names.tokens,
        "anchor_kind": names.kinds,
        "n_same_name": [name_counts[token] for token in names.tokens.tolist()],
        "n_same_family": [
            family_counts[spelling] if spelling else name_counts[token]
            for spelling, token in zip(family, names.tokens.tolist(), strict=True)
        ],
        "bucket": [bucket(0.0)] * n,
        "phrase_tokens": [[token] for token in names.tokens.tolist()],
        "live": live,
        "verdict": evidence.verdict(torch.from_numpy(live)),
        "density": [feature.density for feature in features],
        "n_firings": evidence.firings.numpy(),
        "max_activation": maxima,
        **_activation_columns(features, maxima),
        "pos_tokens": positive,
        "pos_values": [[value for _, value in feature.positive] for feature in features],
        "neg_tokens": [[int(ids[token]) for token, _ in feature.negative] for feature in features],
        "neg_values": [[value for _, value in feature.negative] for feature in features],
        "name_rank": pa.array(
            [_rank(row, int(token)) for row, token in zip(positive, names.tokens, strict=True)], pa.int32()
        ),
        "lift_token": _known(lifted, fired),
        "lift_share": _known(judged.lift.hits.numpy() / np.maximum(evidence.firings.numpy(), 1), fired),
        "logit_share": _known(judged.logit_share, fired),
        "beats_name": fired & (lifted != names.tokens) & (lift_hits - here > noise(lift_hits, here)),
        "logit_beats_name": fired & (logit_hits - next_hits > noise(logit_hits, next_hits)),
        **evidence.measures(),
    }
    if names.geometry is not None:
        columns |= names.geometry.columns
    return filled("feature", columns, n)


def _rank(positive: list[int], name: int) -> int | None:
    """The name's place among the top logits; not known where it is not one of them."""
    return positive.index(name) if name in positive else None


def _known(values: np.ndarray, known: np.ndarray) -> pa.Array:
    return pa.array(values, mask=~known)


def _activation_columns(features: list[Feature], maxima: np.ndarray) -> dict[str, Any]:
    """From each feature's histogram, as fine as its bars; without one, nothing but its strongest context is
    known.
    """
    histograms, moments = np.zeros((len(features), len(EDGES) - 1), np.int64), []
    for row, feature in enumerate(features):
        middles, heights = (
            (np.array(column, float) for column in zip(*feature.bars, strict=True))
            if feature.bars
            else (maxima[:0], maxima[:0])
        )
        bins = np.clip(np.searchsorted(EDGES, middles, side="right") - 1, 0, len(EDGES) - 2)
        np.add.at(histograms[row], bins, heights.astype(np.int64))
        moments.append(_moments(middles, heights))
    names = ("mean_activation", "std_activation", "skewness", "kurtosis")
    columns: dict[str, Any] = {
        name: pa.array([found[place] for found in moments], pa.float64()) for place, name in enumerate(names)
    }
    return columns | {"histogram": histograms.tolist()}


def _moments(
    middles: np.ndarray, heights: np.ndarray
) -> tuple[float, float | None, float | None, float | None]:
    total = heights.sum()
    if total == 0:
        return 0.0, None, None, None
    mean = float((middles * heights).sum() / total)
    spread = float(np.sqrt((heights * (middles - mean) ** 2).sum() / total))
    if total < 2 or spread == 0:
        return mean, None, None, None
    third, fourth = (
        float((heights * ((middles - mean) / spread) ** power).sum() / total) for power in (3, 4)
    )
    return mean, spread, third, fourth - 3


def context_rows(dictionary_id: int, first_passage: int, found: Dashboards, chosen: Chosen) -> pa.Table:
    positions, values = (
        np.array(found.contexts.positions, np.int32),
        np.array(found.contexts.values, np.float32),
    )
    columns = {
        "dictionary_id": np.full(len(chosen.feature), dictionary_id),
        "feature": chosen.feature,
        "kind": chosen.kind,
        "quantile": pa.array(chosen.quantile, pa.int32()),
        "rank": chosen.rank,
        "passage": chosen.text + first_passage,
        "position": chosen.place,
        "value": chosen.value,
        "positions": [positions[part] for part in chosen.entries],
        "values": [values[part] for part in chosen.entries],
    }
    return filled("context", columns, len(chosen.feature))


def passage_rows(first_passage: int, texts: Texts, chosen: Chosen, corpus: str) -> pa.Table:
    """The texts that kept contexts stand in."""
    used = np.unique(chosen.text)
    tokens = [texts.tokens[texts.starts[text] : texts.starts[text + 1]] for text in used]
    return filled(
        "passage",
        {"passage_id": used + first_passage, "corpus": [corpus] * len(used), "tokens": tokens},
        len(used),
    )


def token_rows(model: LanguageModel, occurrences: np.ndarray) -> pa.Table:
    vocabulary = Vocabulary(model.tokenizer, model.vocab_size)
    n = len(vocabulary)
    columns = {
        "model": [model.id] * n,
        "token_id": np.arange(n),
        "shown": vocabulary.shown,
        "raw": [raw.hex() for raw in vocabulary.raw],
        "folded": vocabulary.folded(),
        "count": occurrences,
    }
    return filled("token", columns, n)


def dictionary_row(
    dictionary_id: int,
    model: LanguageModel,
    source: str,
    layer: int,
    found: Dashboards,
    d_sae: int,
    corpus: str,
    kind: str,
    training: dict[str, Any],
) -> pa.Table:
    run = found.run
    columns = {
        "dictionary_id": dictionary_id,
        "model": model.id,
        "source": source,
        "layer": layer,
        "recipe": "imported",
        "origin": "neuronpedia",
        "architecture": "imported",
        "d_in": model.d_model,
        "d_sae": d_sae,
        "hook_name": hook_name(layer),
        "anchor_kind": kind,
        "model_path": model.path,
        "corpus": corpus,
        "n_tokens": run.n_prompts * run.n_tokens_in_prompt,
        "n_passages": run.n_prompts,
        "vocab_size": model.vocab_size,
        "histogram_edges": EDGES.tolist(),
        "training": json.dumps(training, ensure_ascii=False),
        "metrics": "{}",
    }
    return filled("dictionary", {name: [value] for name, value in columns.items()}, 1)


def summary_row(
    dictionary_id: int,
    rows: pa.Table,
    d_sae: int,
    seen: Behaviour,
    judged: Judged,
    *,
    index_tokens: int,
    random_cosine: float,
) -> pa.Table:
    cosine, density, to_embedding, live, names = (
        torch.from_numpy(rows.column(name).to_numpy().copy())
        for name in ("cosine", "density", "cosine_embedding", "live", "name_token")
    )
    named_by_direction = bool((cosine != 0).any())
    columns: dict[str, Any] = {
        "dictionary_id": dictionary_id,
        "n_live": int(live.sum()),
        "dead_share": 1 - int(live.sum()) / d_sae,
        "l0": float(density.double().sum()),
        "random_cosine": random_cosine,
        "index_tokens": index_tokens,
        **name_shares(
            names.long(),
            cosine,
            to_embedding,
            live=live,
            firings=density,
            energy=torch.zeros_like(density),
            evidence=judged.evidence,
            occurrences=torch.from_numpy(seen.occurrences),
        ),
        "verdicts": json.dumps(dict(Counter(rows.column("verdict").to_pylist()))),
        **distributions(cosine[live & named_by_direction], density.numpy()),
    }
    return filled("layer_summary", {name: [value] for name, value in columns.items()}, 1)


def maxima_of(found: Dashboards, chosen: Chosen, index: np.ndarray) -> np.ndarray:
    """[rows] what the file gives as the maximum, or the strongest context."""
    strongest = np.zeros(len(index), np.float64)
    np.maximum.at(strongest, np.searchsorted(index, chosen.feature), chosen.value.astype(np.float64))
    given = [found.features[int(number)].maximum for number in index]
    return np.array(
        [own if maximum is None else maximum for maximum, own in zip(given, strongest, strict=True)]
    )


def live_of(found: Dashboards, index: np.ndarray) -> np.ndarray:
    return np.array([found.features[int(number)].density >= LIVE for number in index], bool)


def first_logit(found: Dashboards, index: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """[rows] the top logit token, −2 where none is given or known (−1 stands for the end of a text)."""
    rows = (found.features[int(number)].positive for number in index)
    tokens = np.array([int(ids[row[0][0]]) if row else -2 for row in rows], np.int64)
    return np.where(tokens < 0, -2, tokens)
