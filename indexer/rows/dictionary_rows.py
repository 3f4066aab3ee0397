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
from indexer.rows.columns import rows
from lexiscope import metrics
from lexiscope.anchors import ALIGNED
from lexiscope.dictionary import Dictionary
from lexiscope.evidence import Evidence
from lexiscope.language_model import LanguageModel, hook_name
from lexiscope.measures import DICTIONARY, RECORDED

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
    return rows("dictionary", {name: [value] for name, value in row.items()})


def summary_row(found: Indexed, state: State, verdicts: list[dict[str, Any]]) -> pa.Table:
    """`verdicts`: how many features have each."""
    live, names, statistics = found.live, found.named.names, found.learned.statistics
    energy = torch.from_numpy(statistics.squares) * found.dictionary.W_dec.square().sum(-1)
    near = torch.bincount(names.tokens[live].flatten(), minlength=HUBS)
    hubs = near.sort(descending=True, stable=True)
    causal = {} if found.causal is None else found.causal.measures()
    recorded = found.member.checkpoint.metrics
    row = {
        "dictionary_id": found.dictionary_id,
        "n_live": int(live.sum()),
        "dead_share": 1 - live.float().mean().item(),
        "l0": float(statistics.count.sum() / max(state.n_tokens, 1)),
        "random_cosine": found.random_cosine,
        "index_tokens": state.n_tokens,
        **name_shares(
            names.tokens[:, 0],
            names.cosines[:, 0],
            found.shape.cosine_embedding,
            live=live,
            firings=torch.from_numpy(statistics.count),
            energy=energy,
            evidence=found.evidence,
            occurrences=torch.from_numpy(state.occurrences),
        ),
        **{name: recorded.get(name) for name in RECORDED},
        **{name: _mean(values) for name, values in causal.items() if name in DICTIONARY},
        "verdicts": json.dumps({v["values"]: v["counts"] for v in verdicts}),
        "hub_tokens": hubs.indices[:HUBS].tolist(),
        "hub_counts": hubs.values[:HUBS].tolist(),
        **distributions(names.cosines[:, 0][live], statistics.count / max(state.n_tokens, 1)),
    }
    return rows("layer_summary", {name: [value] for name, value in row.items()})


def name_shares(
    names: torch.Tensor,
    cosines: torch.Tensor,
    to_embedding: torch.Tensor,
    *,
    live: torch.Tensor,
    firings: torch.Tensor,
    energy: torch.Tensor,
    evidence: Evidence,
    occurrences: torch.Tensor,
) -> dict[str, float]:
    """The shares of `lexiscope.measures.DICTIONARY` that say what names are worth. All are [d_sae] but
    occurrences [vocab]: names as token ids, their cosines to the direction (anchor, and row of W_E), which
    features are live, how often they fire, the energy they add, the evidence for their names.
    """
    aligned = metrics.alignment(cosines, live, firings, energy)
    return {
        **{f"aligned_{weight}": share for weight, share in aligned._asdict().items()},
        "aligned_live_embedding": metrics.weighted_share(to_embedding >= ALIGNED, live),
        "supported_live": metrics.weighted_share(evidence.supported, live),
        "supported_firing": metrics.weighted_share(evidence.supported, firings * live),
        "half_live": metrics.weighted_share(evidence.half, live),
        "coverage": metrics.coverage(names, live & (cosines >= ALIGNED), occurrences),
    }


def distributions(cosines: torch.Tensor, densities: np.ndarray) -> dict[str, list[float]]:
    """The histograms of a dictionary's page: cosines of its live features, densities of those that fired."""
    return {
        "cosine_counts": np.histogram(cosines, COSINE_EDGES)[0].tolist(),
        "cosine_edges": COSINE_EDGES.tolist(),
        "density_counts": np.histogram(densities[densities > 0], DENSITY_EDGES)[0].tolist(),
        "density_edges": DENSITY_EDGES.tolist(),
    }


def _mean(values: torch.Tensor) -> float | None:
    known = values[~values.isnan()]
    return known.mean().item() if len(known) else None
