"""What a pass over some blocks of a text has counted of one model's dictionaries: bounded by features, not by
text.

`merge` is associative and commutative: any split of the blocks, in any order, ends in the same state, to the
bit. Resuming, shards and clusters all rest on it. A state is written to disk as plain arrays (`arrays`,
`from_arrays`).
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from indexer.counts.activation_statistics import ActivationStatistics, position_edges
from indexer.counts.coactivation import SAMPLE, SampledFirings, SampledPositions
from indexer.counts.context_pools import ContextPool
from indexer.counts.exact_sum import ExactSum
from indexer.counts.token_counts import MAX_COUNTS, TokenCounts
from indexer.errors import IndexingError
from lexiscope.evidence import SAMPLED_FIRINGS, FiringSample, NameHits, RelationCounts

TOP, SAMPLED, NEAR_MISSES = 20, 25, 5
"""Contexts of each feature in the index, by kind."""
SPARE = 4
"""Contexts kept beyond those, because some will turn out to repeat a text."""
FORMAT = 6
"""Of the arrays; part of a job's fingerprint, so that another version's unfinished work is left alone."""


class StateShape(NamedTuple):
    """What two states must agree on to be merged."""

    vocab: int
    length: int
    """tokens of a passage, at most"""
    widths: tuple[int, ...]
    """d_sae of each dictionary"""
    layers: tuple[int, ...]
    """layer of each dictionary"""
    max_token_counts: int = MAX_COUNTS
    """token counts kept of a feature"""
    sampled_positions: int = SAMPLE
    """positions in the sample for coactivation"""
    sampled_firings: int = SAMPLED_FIRINGS
    """firings of a feature in the sample of either half of the passages"""

    @property
    def distinct_layers(self) -> list[int]:
        return sorted(set(self.layers))


class DictionaryCounts:
    """Everything counted of one dictionary."""

    def __init__(self, d_sae: int, shape: StateShape) -> None:
        self.statistics = ActivationStatistics(d_sae, len(position_edges(shape.length)) - 1)
        self.names = NameHits(d_sae)
        self.firings = FiringSample(d_sae, shape.sampled_firings)
        self.tokens = TokenCounts(d_sae, shape.vocab, shape.max_token_counts)
        self.top = ContextPool(d_sae, TOP + SPARE, one_a_passage=True)
        self.sample = ContextPool(d_sae, SAMPLED + SPARE, one_a_passage=False)
        self.near_misses = ContextPool(d_sae, NEAR_MISSES + SPARE, one_a_passage=True)
        self.coactive = SampledFirings()

    @property
    def pools(self) -> tuple[ContextPool, ContextPool, ContextPool]:
        return self.top, self.sample, self.near_misses

    def absorb(self, other: "DictionaryCounts", cutoff: np.uint64) -> None:
        self.statistics.absorb(other.statistics)
        self.names.absorb(other.names)
        self.firings.absorb(other.firings)
        self.tokens.absorb(other.tokens)
        for own, pool in zip(self.pools, other.pools, strict=True):
            own.absorb(pool)
        self.coactive.absorb(other.coactive, cutoff)

    def settle(self) -> None:
        self.firings.settle()
        self.tokens.settle()
        self.coactive.settle()
        for pool in self.pools:
            pool.settle()

    def parts(self) -> dict[str, Any]:
        names = ("statistics", "names", "firings", "tokens", "top", "sample", "near_misses", "coactive")
        return {name: getattr(self, name) for name in names}


class PassState:
    """Begins empty."""

    def __init__(self, shape: StateShape) -> None:
        self.shape = shape
        self.blocks = np.zeros(0, np.int64)
        """numbers of the blocks that were counted, ascending"""
        self.n_passages = 0
        self.occurrences = np.zeros(shape.vocab, np.int64)
        """of each token, at encoded positions"""
        self.judged_occurrences = np.zeros(shape.vocab, np.int64)
        """the same in the half of the passages that names are judged on"""
        self.relations = RelationCounts(shape.vocab)
        self.position_totals = np.zeros(len(position_edges(shape.length)) - 1, np.int64)
        """encoded positions in each bin"""
        self.norms = ExactSum(len(shape.distinct_layers))
        """Σ norm of the residual stream at each layer, over encoded positions"""
        self.covariances: dict[int, np.ndarray] = {}
        """[d, d] of the residual stream, by layer; empty until block 0 is counted"""
        self.sampled_positions = SampledPositions(shape.sampled_positions)
        self.passages: dict[int, np.ndarray] = {}
        """token ids, BOS included, of the passages that contexts and sampled firings point into"""
        self.dictionaries = [DictionaryCounts(width, shape) for width in shape.widths]

    @property
    def n_tokens(self) -> int:
        """Encoded positions."""
        return int(self.position_totals.sum())

    def settle(self) -> None:
        """Drop what is no longer needed. Two states of the same blocks are then equal, array by array."""
        for counts in self.dictionaries:
            counts.settle()
        self.prune()

    def prune(self) -> None:
        """Drop the passages that no context in a pool and no sampled firing points into."""
        pointed = [pool.passages() for counts in self.dictionaries for pool in counts.pools]
        pointed += [counts.firings.passages() for counts in self.dictionaries]
        used = np.unique(np.concatenate([np.zeros(0, np.int64), *pointed]))
        self.passages = {number: self.passages[number] for number in used.tolist()}

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything, settled, by dotted names."""
        self.settle()
        passages = list(self.passages.values())
        arrays: dict[str, np.ndarray] = {
            "format": np.array(FORMAT),
            "blocks": self.blocks,
            "n_passages": np.array(self.n_passages),
            "occurrences": self.occurrences,
            "judged_occurrences": self.judged_occurrences,
            "position_totals": self.position_totals,
            "relation_counts": self.relations.counts,
            "relation_positions": self.relations.positions,
            "norms": self.norms.limbs,
            "hashes": self.sampled_positions.hashes,
            "passage_ids": np.array(list(self.passages), np.int64),
            "passage_lengths": np.array([len(ids) for ids in passages], np.int64),
            "passage_tokens": np.concatenate([np.zeros(0, np.int32), *passages]).astype(np.int32),
        }
        arrays |= {f"covariance.{layer}": covariance for layer, covariance in self.covariances.items()}
        for number, counts in enumerate(self.dictionaries):
            arrays[f"{number}.powers"] = counts.statistics.powers.limbs
            for name, part in counts.parts().items():
                arrays |= {f"{number}.{name}.{array}": getattr(part, array) for array in part.PARTS}
        return arrays

    @classmethod
    def from_arrays(cls, shape: StateShape, arrays: Mapping[str, np.ndarray]) -> "PassState":
        """Raises IndexingError: not the arrays of a state of this shape."""
        try:
            if int(arrays["format"]) != FORMAT:
                raise IndexingError(
                    f"Unfinished work of format {int(arrays['format'])} cannot be continued here "
                    f"(format {FORMAT})."
                )
            return cls._filled(shape, arrays)
        except KeyError as error:
            raise IndexingError(f"Unfinished work is damaged: it has no {error}.") from error

    @classmethod
    def _filled(cls, shape: StateShape, arrays: Mapping[str, np.ndarray]) -> "PassState":
        state = cls(shape)
        state.blocks, state.n_passages = arrays["blocks"], int(arrays["n_passages"])
        state.occurrences, state.position_totals = arrays["occurrences"], arrays["position_totals"]
        state.judged_occurrences = arrays["judged_occurrences"]
        state.norms.limbs, state.sampled_positions.hashes = arrays["norms"], arrays["hashes"]
        state.relations.counts = arrays["relation_counts"]
        state.relations.positions = arrays["relation_positions"]
        ids, cuts = arrays["passage_ids"].tolist(), arrays["passage_lengths"].cumsum()[:-1]
        passages = np.split(arrays["passage_tokens"], cuts) if ids else []
        state.passages = dict(zip(ids, passages, strict=True))
        state.covariances = {
            layer: arrays[name]
            for layer in shape.distinct_layers
            if (name := f"covariance.{layer}") in arrays
        }
        for number, counts in enumerate(state.dictionaries):
            counts.statistics.powers.limbs = arrays[f"{number}.powers"]
            for name, part in counts.parts().items():
                for array in part.PARTS:
                    setattr(part, array, arrays[f"{number}.{name}.{array}"])
            counts.firings.refill()
            for pool in counts.pools:
                pool.settle()
        return state


def merge(a: PassState, b: PassState) -> PassState:
    """Both states' counts, in `a`; `b` is used up. Raises IndexingError: a block in both, or states of
    different dictionaries.
    """
    if a.shape != b.shape:
        raise IndexingError("States of other dictionaries, or of other passages, cannot be merged.")
    twice = np.intersect1d(a.blocks, b.blocks)
    if len(twice):
        raise IndexingError(f"Block {twice[0]} is in both states: it would count twice.")
    a.blocks = np.sort(np.concatenate([a.blocks, b.blocks]))
    a.n_passages += b.n_passages
    a.occurrences += b.occurrences
    a.judged_occurrences += b.judged_occurrences
    a.position_totals += b.position_totals
    a.relations.absorb(b.relations)
    a.norms.limbs += b.norms.limbs
    a.covariances |= b.covariances
    a.sampled_positions.add(b.sampled_positions.hashes)
    a.passages |= b.passages
    for counts, others in zip(a.dictionaries, b.dictionaries, strict=True):
        counts.absorb(others, a.sampled_positions.cutoff)
    a.prune()
    return a
