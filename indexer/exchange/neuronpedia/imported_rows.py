"""The rows of an imported dictionary. What the files do not tell is NULL, empty or zero.

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
from indexer.exchange.neuronpedia.dashboards import DashboardFeature
from indexer.exchange.neuronpedia.imported_dictionary import ImportedDictionary
from indexer.exchange.neuronpedia.imported_evidence import ImportedEvidence
from indexer.exchange.neuronpedia.name_by_direction import DirectionNames
from indexer.rows.columns import filled
from indexer.rows.dictionary_rows import distributions, name_shares
from indexer.rows.feature_rows import noise
from lexiscope.anchors import bucket
from lexiscope.language_model import hook_name


class ImportedNames(NamedTuple):
    tokens: np.ndarray
    """[rows]"""
    kinds: list[str]
    """where the name of each row is from, in words"""
    kind: str
    """where names are from, in words"""
    geometry: DirectionNames | None
    """None where names are not from decoder rows"""


def feature_rows(
    dictionary_id: int, imported: ImportedDictionary, names: ImportedNames, tested: ImportedEvidence
) -> pa.Table:
    n, features, ids = len(imported.index), imported.features, imported.token_ids
    evidence, tokens = tested.evidence, names.tokens
    positive, negative = (
        [[int(ids[token]) for token, _ in logits] for logits in side]
        for side in zip(*((feature.positive, feature.negative) for feature in features), strict=True)
    )
    columns: dict[str, Any] = {
        "dictionary_id": np.full(n, dictionary_id),
        "index": imported.index,
        "name_token": tokens,
        "anchor_kind": names.kinds,
        "bucket": [bucket(0.0)] * n,
        "phrase_tokens": [[token] for token in tokens.tolist()],
        "live": imported.live,
        "verdict": np.where(imported.live, "untested", "dead").tolist(),
        "write_verdict": np.where(imported.live, "untested", "dead").tolist(),
        "density": [feature.density for feature in features],
        "max_activation": imported.maxima,
        "pos_tokens": positive,
        "pos_values": [[value for _, value in feature.positive] for feature in features],
        "neg_tokens": negative,
        "neg_values": [[value for _, value in feature.negative] for feature in features],
        "name_rank": np.array([_rank(row, int(token)) for row, token in zip(positive, tokens, strict=True)]),
        **_shared_names(imported, tokens),
        **_activation_columns(features),
        **_rival_names(tokens, tested),
        **evidence.measures(),
        "n_firings": evidence.firings,
    }
    if names.geometry is not None:
        columns |= names.geometry.columns
    return filled("feature", columns, n)


def _rank(positive: list[int], name: int) -> int:
    """The name's place among the top logits; −1 where it is not one of them, and its rank is not known."""
    return positive.index(name) if name in positive else -1


def _shared_names(imported: ImportedDictionary, tokens: np.ndarray) -> dict[str, list[int]]:
    folded = imported.model.vocabulary.folded()
    families = [
        folded[token] or token for token in tokens.tolist()
    ]  # what folds to nothing is a family of its own
    by_name, by_family = Counter(tokens.tolist()), Counter(families)
    return {
        "n_same_name": [by_name[token] for token in tokens.tolist()],
        "n_same_family": [by_family[family] for family in families],
    }


def _rival_names(tokens: np.ndarray, tested: ImportedEvidence) -> dict[str, np.ndarray]:
    """The names that firings and logits would give, and whether they do better than the feature's own."""
    evidence, firings = tested.evidence, tested.evidence.firings.numpy()
    fired, lift_hits, lift_token = firings > 0, tested.lift.hits.numpy(), tested.lift.tokens.numpy()
    hits, next_hits = (evidence.share[kind].numpy() * firings for kind in ("reads_here", "predicts"))
    logit_hits = tested.logit_share * firings
    beats = (lift_token != tokens) & (lift_hits - hits > noise(lift_hits, hits))
    return {
        "lift_token": np.where(fired, lift_token, -1),
        "lift_share": np.where(fired, lift_hits / np.maximum(firings, 1), np.nan),
        "beats_name": fired & beats,
        "logit_share": np.where(fired, tested.logit_share, np.nan),
        "logit_beats_name": fired & (logit_hits - next_hits > noise(logit_hits, next_hits)),
    }


def _activation_columns(features: list[DashboardFeature]) -> dict[str, Any]:
    """From each feature's histogram, as fine as its bars; without one, the moments are not known."""
    histograms = np.zeros((len(features), len(EDGES) - 1), np.int64)
    moments = np.zeros((len(features), 4))
    for row, feature in enumerate(features):
        middles, heights = (np.array([bar[part] for bar in feature.bars], float) for part in (0, 1))
        bins = np.clip(np.searchsorted(EDGES, middles, side="right") - 1, 0, len(EDGES) - 2)
        np.add.at(histograms[row], bins, heights.astype(np.int64))
        moments[row] = _moments(middles, heights)
    names = ("mean_activation", "std_activation", "skewness", "kurtosis")
    return {**dict(zip(names, moments.T, strict=True)), "histogram": histograms}


def _moments(middles: np.ndarray, heights: np.ndarray) -> tuple[float, float, float, float]:
    """(mean, standard deviation, skewness, excess kurtosis); NaN where there are too few firings, or no
    spread.
    """
    total = heights.sum()
    if total == 0:
        return 0.0, np.nan, np.nan, np.nan
    mean = float((middles * heights).sum() / total)
    spread = float(np.sqrt((heights * (middles - mean) ** 2).sum() / total))
    if total < 2 or spread == 0:
        return mean, np.nan, np.nan, np.nan
    third, fourth = ((heights * ((middles - mean) / spread) ** power).sum() / total for power in (3, 4))
    return mean, spread, float(third), float(fourth) - 3


def context_rows(dictionary_id: int, first_passage: int, imported: ImportedDictionary) -> pa.Table:
    contexts, columns = imported.contexts, imported.dashboards.contexts
    positions, values = np.array(columns.positions, np.int32), np.array(columns.values, np.float32)
    n = len(contexts.feature)
    rows = {
        "dictionary_id": np.full(n, dictionary_id),
        "feature": contexts.feature,
        "kind": contexts.kind,
        "quantile": pa.array(contexts.quantile, pa.int32()),
        "rank": contexts.rank,
        "passage": contexts.text + first_passage,
        "position": contexts.place,
        "value": contexts.value,
        "positions": [positions[part] for part in contexts.entries],
        "values": [values[part] for part in contexts.entries],
    }
    return filled("context", rows, n)


def passage_rows(first_passage: int, imported: ImportedDictionary) -> pa.Table:
    """The texts that kept contexts stand in."""
    used = np.unique(imported.contexts.text)
    columns = {
        "passage_id": used + first_passage,
        "corpus": [imported.corpus] * len(used),
        "tokens": [imported.texts[int(text)] for text in used],
    }
    return filled("passage", columns, len(used))


def dictionary_row(
    dictionary_id: int, imported: ImportedDictionary, names: ImportedNames, training: dict[str, Any]
) -> pa.Table:
    model, run = imported.model, imported.dashboards.run
    row = {
        "dictionary_id": dictionary_id,
        "model": model.id,
        "source": imported.source,
        "layer": imported.layer,
        "recipe": "imported",
        "origin": "neuronpedia",
        "architecture": "imported",
        "d_in": model.d_model,
        "d_sae": imported.d_sae,
        "hook_name": hook_name(imported.layer),
        "anchor_kind": names.kind,
        "model_path": model.path,
        "model_identity": model.identity,
        "text": imported.dashboards.run.dataset or "",
        "corpus": imported.corpus,
        "n_tokens": run.n_tokens,
        "n_passages": run.n_prompts,
        "vocab_size": model.vocab_size,
        "histogram_edges": EDGES.tolist(),
        "training": json.dumps(training, ensure_ascii=False),
        "metrics": "{}",
    }
    return filled("dictionary", {name: [value] for name, value in row.items()}, 1)


def summary_row(
    dictionary_id: int,
    imported: ImportedDictionary,
    features: pa.Table,
    tested: ImportedEvidence,
    *,
    occurrences: np.ndarray,
    random_cosine: float,
) -> pa.Table:
    """`features` as `feature_rows` gives them; occurrences [vocab] in the imported texts."""
    live, cosine, density, to_embedding, names = (
        torch.from_numpy(features.column(name).to_numpy().copy())
        for name in ("live", "cosine", "density", "cosine_embedding", "name_token")
    )
    named_by_direction = bool((cosine != 0).any())
    row: dict[str, Any] = {
        "dictionary_id": dictionary_id,
        "n_live": int(live.sum()),
        "dead_share": 1 - int(live.sum()) / imported.d_sae,
        "l0": float(density.double().sum()),
        "random_cosine": random_cosine,
        "index_tokens": imported.dashboards.run.n_tokens,
        **name_shares(
            names.long(),
            cosine,
            to_embedding,
            live=live,
            firings=density,
            energy=torch.zeros_like(density),
            evidence=tested.evidence,
            occurrences=torch.from_numpy(occurrences),
        ),
        "verdicts": json.dumps(Counter(features.column("verdict").to_pylist())),
        "verdict_firings": "{}",
        "write_verdicts": json.dumps(Counter(features.column("write_verdict").to_pylist())),
        **distributions(cosine[live & named_by_direction], density.numpy()),
    }
    return filled("layer_summary", {name: [value] for name, value in row.items()}, 1)
