"""The rows of `dictionary` and `layer_summary`: one dictionary in a line, and what the layer plots need."""

import json
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch

from indexer.counts.activation_statistics import EDGES, position_edges
from indexer.counts.state import Learned, State
from indexer.dictionaries import Member, Named
from indexer.geometry import Geometry
from indexer.rows.ablation import Causal
from lexiscope import metrics
from lexiscope.anchors import ALIGNED
from lexiscope.dictionary import Dictionary
from lexiscope.evidence import Evidence
from lexiscope.language_model import LanguageModel, hook_name

HUBS = 20
COSINE_EDGES = np.linspace(-0.2, 1, 61)
DENSITY_EDGES = np.round(10 ** np.linspace(-7, 0, 43), 9)


class Indexed(NamedTuple):
    """All that is known of one dictionary."""

    member: Member
    dictionary: Dictionary
    named: Named
    learned: Learned
    live: torch.Tensor
    """[d_sae] bool"""
    assigned: torch.Tensor
    """[d_sae] the anchors of training, −1 for none"""
    evidence: Evidence
    shape: Geometry
    causal: Causal | None
    random_cosine: float
    mean_norm: float
    dictionary_id: int


def dictionary_row(
    model: LanguageModel,
    found: Indexed,
    state: State,
    *,
    corpus: str,
    previous: int | None,
    following: int | None,
) -> pa.Table:
    """`previous` and `following`: ids of the same set's dictionaries in the neighbouring layers."""
    member = found.member
    row = {
        "dictionary_id": found.dictionary_id,
        "model": model.id,
        "source": member.source,
        "layer": member.layer,
        "recipe": member.recipe,
        "origin": member.checkpoint.origin,
        "architecture": member.checkpoint.architecture,
        "d_in": found.dictionary.d_in,
        "d_sae": found.dictionary.d_sae,
        "k": found.dictionary.selection.max_active or 0,
        "hook_name": member.checkpoint.hook or hook_name(member.layer),
        "anchor_kind": member.anchor_kind,
        "model_path": model.path,
        "checkpoint_path": str(member.checkpoint.path.resolve()),
        "corpus": corpus,
        "n_tokens": state.n_tokens,
        "n_passages": state.n_passages,
        "vocab_size": model.vocab_size,
        "mean_norm": found.mean_norm,
        "histogram_edges": EDGES.tolist(),
        "position_edges": position_edges(state.shape.length).tolist(),
        "position_totals": state.position_totals.tolist(),
        "training": json.dumps(member.checkpoint.details),
        "metrics": json.dumps(member.checkpoint.metrics),
        "causal": None if found.causal is None else json.dumps(found.causal.parameters),
        "previous_dictionary": previous,
        "next_dictionary": following,
    }
    return pa.Table.from_pylist([row])


def summary_row(found: Indexed, state: State, verdicts: list[dict[str, Any]]) -> pa.Table:
    """`verdicts`: how many features have each."""
    dictionary, measured, live = found.dictionary, found.member.checkpoint.metrics, found.live
    statistics, names = found.learned.statistics, found.named.names
    firings = torch.from_numpy(statistics.count)
    cosines = names.cosines[:, 0]
    energy = torch.from_numpy(statistics.squares) * dictionary.W_dec.square().sum(-1)
    aligned = metrics.alignment(cosines, live, firings, energy)
    densities = (statistics.count / max(state.n_tokens, 1))[statistics.count > 0]
    near = torch.bincount(names.tokens[live].flatten(), minlength=HUBS)
    hubs = near.sort(descending=True, stable=True)
    row = {
        "dictionary_id": found.dictionary_id,
        "n_live": int(live.sum()),
        "l0": float(statistics.count.sum() / max(state.n_tokens, 1)),
        "random_cosine": found.random_cosine,
        "dead_share": 1 - live.float().mean().item(),
        "aligned_all": aligned.all,
        "aligned_live": aligned.live,
        "aligned_firing": aligned.firing,
        "aligned_energy": aligned.energy,
        "aligned_live_embedding": metrics.weighted_share(found.shape.cosine_embedding >= ALIGNED, live),
        "supported_live": metrics.weighted_share(found.evidence.supported, live),
        "supported_firing": metrics.weighted_share(found.evidence.supported, firings * live),
        "half_live": metrics.weighted_share(found.evidence.half, live),
        "coverage": metrics.coverage(
            names.tokens[:, 0], live & (cosines >= ALIGNED), torch.from_numpy(state.occurrences)
        ),
        "verdicts": json.dumps({v["values"]: v["counts"] for v in verdicts}),
        "fve": measured.get("fve"),
        "delta_ce": measured.get("delta_ce"),
        "dense_share": measured.get("dense_share"),
        "ablation_top1": None if found.causal is None else _mean(found.causal.ablation_top1),
        "ablation_top5": None if found.causal is None else _mean(found.causal.ablation_top5),
        "hub_tokens": hubs.indices[:HUBS].tolist(),
        "hub_counts": hubs.values[:HUBS].tolist(),
        "index_tokens": state.n_tokens,
        "cosine_counts": np.histogram(cosines[live], COSINE_EDGES)[0].tolist(),
        "cosine_edges": COSINE_EDGES.tolist(),
        "density_counts": np.histogram(densities, DENSITY_EDGES)[0].tolist(),
        "density_edges": DENSITY_EDGES.tolist(),
    }
    return pa.Table.from_pylist([row])


def _mean(values: torch.Tensor) -> float | None:
    known = values[~values.isnan()]
    return known.mean().item() if len(known) else None
