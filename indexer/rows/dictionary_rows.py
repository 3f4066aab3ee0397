"""The rows of `dictionary` and `layer_summary`: what a dictionary is, and its measures over all features."""

import json
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import torch

from indexer.counts.activation_statistics import EDGES, position_edges
from indexer.counts.state import PassState
from indexer.rows.analysis import AnalysedDictionary
from indexer.rows.columns import rows
from lexiscope import metrics
from lexiscope.anchors import ALIGNED
from lexiscope.evidence import Evidence
from lexiscope.language_model import LanguageModel, hook_name
from lexiscope.measures import DICTIONARY, RECORDED

COSINE_EDGES = np.linspace(-0.2, 1, 61)
DENSITY_EDGES = np.round(10 ** np.linspace(-7, 0, 43), 9)


def dictionary_row(
    model: LanguageModel,
    analysed: AnalysedDictionary,
    state: PassState,
    *,
    lens_path: str,
    text: str,
    corpus: str,
    links: Sequence[int | None],
) -> pa.Table:
    """`lens_path` is where the Jacobian lens is kept, `text` the names of the indexed text and `corpus` its
    fingerprint, `links` the ids of the same set's dictionaries in the previous and the next layer.
    """
    member = analysed.member
    previous, following = links
    row = {
        "dictionary_id": analysed.dictionary_id,
        "model": model.id,
        "source": member.source,
        "layer": member.layer,
        "recipe": member.recipe,
        "origin": member.checkpoint.origin,
        "architecture": member.checkpoint.architecture,
        "d_in": analysed.dictionary.d_in,
        "d_sae": analysed.dictionary.d_sae,
        "k": analysed.dictionary.selection.max_active or 0,
        "hook_name": member.checkpoint.hook or hook_name(member.layer),
        "anchor_kind": analysed.anchor_kind,
        "model_path": model.path,
        "model_identity": model.identity,
        "dictionary_identity": analysed.dictionary.identity,
        "checkpoint_path": str(member.checkpoint.path.resolve()),
        "lens_path": lens_path,
        "text": text,
        "corpus": corpus,
        "n_tokens": state.n_tokens,
        "n_passages": state.n_passages,
        "vocab_size": model.vocab_size,
        "mean_norm": analysed.mean_norm,
        "histogram_edges": EDGES.tolist(),
        "position_edges": position_edges(state.shape.length).tolist(),
        "position_totals": state.position_totals.tolist(),
        "training": json.dumps(member.checkpoint.details),
        "metrics": json.dumps(member.checkpoint.metrics),
        "causal": None if analysed.causal is None else json.dumps(analysed.causal.parameters),
        "previous_dictionary": previous,
        "next_dictionary": following,
    }
    return rows("dictionary", {name: [value] for name, value in row.items()})


def summary_row(analysed: AnalysedDictionary, state: PassState) -> pa.Table:
    live, names, statistics = analysed.live, analysed.named.names, analysed.counts.statistics
    energy = torch.from_numpy(statistics.squares) * analysed.dictionary.W_dec.square().sum(-1)
    causal = {} if analysed.causal is None else analysed.causal.measures()
    recorded = analysed.member.checkpoint.metrics
    row = {
        "dictionary_id": analysed.dictionary_id,
        "n_live": int(live.sum()),
        "dead_share": 1 - live.float().mean().item(),
        "l0": float(statistics.count.sum() / max(state.n_tokens, 1)),
        "random_cosine": analysed.random_cosine,
        "index_tokens": state.n_tokens,
        "fve_text": analysed.fve_text,
        **analysed.relations.shares(live.numpy(), statistics.count),
        **name_shares(
            names.tokens[:, 0],
            names.cosines[:, 0],
            analysed.geometry.cosine_embedding,
            live=live,
            firings=torch.from_numpy(statistics.count),
            energy=energy,
            evidence=analysed.evidence,
            occurrences=torch.from_numpy(state.occurrences),
        ),
        **{name: recorded.get(name) for name in RECORDED},
        **{name: _mean(values) for name, values in causal.items() if name in DICTIONARY},
        **({} if analysed.causal is None else analysed.causal.written.shares),
        "write_verdicts": json.dumps(Counter(_write_verdicts(analysed))),
        "verdicts": json.dumps(Counter(analysed.relations.verdict.tolist())),
        "verdict_firings": json.dumps(analysed.relations.firing_shares(statistics.count)),
        **distributions(names.cosines[:, 0][live], statistics.count / max(state.n_tokens, 1)),
    }
    return rows("layer_summary", {name: [value] for name, value in row.items()})


def written_table(analysed: AnalysedDictionary) -> pa.Table:
    """What was steered, and what it raised."""
    measured = [] if analysed.causal is None else analysed.causal.written.measured
    names = ("token_id", "kind", "index", "rise", "control", "strength", "above")
    columns = {name: [row[name] for row in measured] for name in names}
    return rows("written", {"dictionary_id": [analysed.dictionary_id] * len(measured), **columns})


def _write_verdicts(analysed: AnalysedDictionary) -> list[str]:
    if analysed.causal is not None:
        return analysed.causal.written.verdict.tolist()
    return np.where(analysed.live, "untested", "dead").tolist()


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
        "aligned_firing_embedding": metrics.weighted_share(to_embedding >= ALIGNED, firings * live),
        "half_live": metrics.weighted_share(evidence.half, live),
        "coverage": metrics.coverage(names, live & (cosines >= ALIGNED), occurrences),
    }


def distributions(cosines: torch.Tensor, densities: np.ndarray) -> dict[str, list[float]]:
    """The histograms of a dictionary's page: cosines of its live features, densities of those that fired.
    Values outside the edges go to the end bins.
    """
    return {
        "cosine_counts": _counts(cosines.numpy(), COSINE_EDGES),
        "cosine_edges": COSINE_EDGES.tolist(),
        "density_counts": _counts(densities[densities > 0], DENSITY_EDGES),
        "density_edges": DENSITY_EDGES.tolist(),
    }


def _counts(values: np.ndarray, edges: np.ndarray) -> list[int]:
    within = np.clip(values.astype(np.float64), edges[0], edges[-1])
    return np.histogram(within, edges)[0].tolist()


def _mean(values: torch.Tensor) -> float | None:
    known = values[~values.isnan()]
    return known.mean().item() if len(known) else None
