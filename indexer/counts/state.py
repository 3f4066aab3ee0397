"""What some blocks of a text taught about the dictionaries of one model: bounded by features, not by text,
and mergeable.

`merge` is associative and commutative: any split of the blocks, in any order, ends in the same state, to the
bit. Resuming, shards and clusters are all this one merge. A state goes to disk as plain arrays (`arrays`,
`from_arrays`).
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from indexer.counts.activation_statistics import Statistics, position_edges
from indexer.counts.coactivation import SampledFirings, SampledPositions
from indexer.counts.context_pools import Pool
from indexer.counts.exact_sum import ExactSum
from indexer.counts.name_counts import NameHits
from indexer.counts.token_counts import TokenCounts
from lexiscope.errors import LexiscopeError

TOP, SAMPLED, NEAR_MISSES = 20, 25, 5
SPARE = 4
"""Contexts kept beyond those, for some will turn out to repeat a text."""
FORMAT = 1
"""Of the arrays; part of a job's fingerprint, so that another version's unfinished work is left alone."""


class IndexingError(LexiscopeError):
    """Dictionaries or a text that cannot be indexed together, or work that cannot go on."""


class Shape(NamedTuple):
    """What two states must agree on to be merged."""

    vocab: int
    length: int
    """tokens of a passage, at most"""
    widths: tuple[int, ...]
    """d_sae of each dictionary"""
    layers: tuple[int, ...]
    """of each dictionary"""

    @property
    def distinct_layers(self) -> list[int]:
        return sorted(set(self.layers))


class Learned:
    """Of one dictionary."""

    def __init__(self, d_sae: int, shape: Shape) -> None:
        self.statistics = Statistics(d_sae, len(position_edges(shape.length)) - 1)
        self.names = NameHits(d_sae)
        self.tokens = TokenCounts(d_sae, shape.vocab)
        self.top = Pool(d_sae, TOP + SPARE, one_a_passage=True)
        self.sample = Pool(d_sae, SAMPLED + SPARE, one_a_passage=False)
        self.near_misses = Pool(d_sae, NEAR_MISSES + SPARE, one_a_passage=True)
        self.coactive = SampledFirings()

    @property
    def pools(self) -> tuple[Pool, Pool, Pool]:
        return self.top, self.sample, self.near_misses

    def absorb(self, other: "Learned", cutoff: np.uint64) -> None:
        self.statistics.absorb(other.statistics)
        self.names.absorb(other.names)
        self.tokens.absorb(other.tokens)
        for mine, theirs in zip(self.pools, other.pools, strict=True):
            mine.absorb(theirs)
        self.coactive.absorb(other.coactive, cutoff)

    def parts(self) -> dict[str, Any]:
        return {
            "statistics": self.statistics,
            "names": self.names,
            "tokens": self.tokens,
            "top": self.top,
            "sample": self.sample,
            "near_misses": self.near_misses,
            "coactive": self.coactive,
        }


class State:
    """Begins empty."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.blocks = np.zeros(0, np.int64)
        """numbers of the blocks it is made of, ascending"""
        self.n_passages = 0
        self.occurrences = np.zeros(shape.vocab, np.int64)
        """of each token, at encoded positions"""
        self.position_totals = np.zeros(len(position_edges(shape.length)) - 1, np.int64)
        self.norms = ExactSum(len(shape.distinct_layers))
        """of the residual stream, summed over encoded positions"""
        self.covariances: dict[int, np.ndarray] = {}
        """[d, d] of the residual stream, by layer; empty unless block 0 is in"""
        self.positions = SampledPositions()
        self.passages: dict[int, np.ndarray] = {}
        """token ids, BOS included, of the passages that contexts point into"""
        self.learned = [Learned(width, shape) for width in shape.widths]

    @property
    def n_tokens(self) -> int:
        """Encoded positions."""
        return int(self.position_totals.sum())

    def settle(self) -> None:
        """Drop all that is not needed any more; two states of the same blocks are then equal, array by array."""
        for each in self.learned:
            each.tokens.settle()
            each.coactive.settle()
            for pool in each.pools:
                pool.settle()
        self.prune()

    def prune(self) -> None:
        """Forget the passages that no context points into; pools are taken as they stand."""
        used = np.unique(
            np.concatenate(
                [pool.pointed_at() for each in self.learned for pool in each.pools] or [np.zeros(0, np.int64)]
            )
        )
        self.passages = {number: self.passages[number] for number in used.tolist()}

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything, settled, by dotted names."""
        self.settle()
        ids = list(self.passages)
        found: dict[str, np.ndarray] = {
            "format": np.array(FORMAT),
            "blocks": self.blocks,
            "n_passages": np.array(self.n_passages),
            "occurrences": self.occurrences,
            "position_totals": self.position_totals,
            "norms": self.norms.limbs,
            "hashes": self.positions.hashes,
            "passage_ids": np.array(ids, np.int64),
            "passage_lengths": np.array([len(self.passages[number]) for number in ids], np.int64),
            "passage_tokens": np.concatenate(
                [self.passages[number] for number in ids] or [np.zeros(0, np.int32)]
            ),
        }
        found |= {f"covariance.{layer}": covariance for layer, covariance in self.covariances.items()}
        for number, each in enumerate(self.learned):
            found[f"{number}.powers"] = each.statistics.powers.limbs
            for name, part in each.parts().items():
                found |= {f"{number}.{name}.{array}": getattr(part, array) for array in part.PARTS}
        return found

    @classmethod
    def from_arrays(cls, shape: Shape, arrays: Mapping[str, np.ndarray]) -> "State":
        """Raises IndexingError: not the arrays of a state of this shape."""
        state = cls(shape)
        try:
            if int(arrays["format"]) != FORMAT:
                raise IndexingError(
                    f"Unfinished work of format {int(arrays['format'])} cannot be continued here (format {FORMAT})."
                )
            state.blocks, state.n_passages = arrays["blocks"], int(arrays["n_passages"])
            state.occurrences, state.position_totals = arrays["occurrences"], arrays["position_totals"]
            state.norms.limbs, state.positions.hashes = arrays["norms"], arrays["hashes"]
            cuts = arrays["passage_lengths"].cumsum()[:-1]
            texts = np.split(arrays["passage_tokens"], cuts) if len(arrays["passage_ids"]) else []
            state.passages = dict(zip(arrays["passage_ids"].tolist(), texts, strict=True))
            state.covariances = {
                layer: arrays[name]
                for layer in shape.distinct_layers
                if (name := f"covariance.{layer}") in arrays
            }
            for number, each in enumerate(state.learned):
                each.statistics.powers.limbs = arrays[f"{number}.powers"]
                for name, part in each.parts().items():
                    for array in part.PARTS:
                        setattr(part, array, arrays[f"{number}.{name}.{array}"])
                for pool in each.pools:
                    pool.settle()
        except KeyError as error:
            raise IndexingError(f"Unfinished work is damaged: it has no {error}.") from error
        return state


def merge(a: State, b: State) -> State:
    """What both teach, in `a`; `b` is used up. Raises IndexingError: a block in both, or states of other
    dictionaries.
    """
    if a.shape != b.shape:
        raise IndexingError("States of other dictionaries, or of other passages, cannot be merged.")
    twice = np.intersect1d(a.blocks, b.blocks)
    if len(twice):
        raise IndexingError(f"Block {twice[0]} is in both states: it would count twice.")
    a.blocks = np.sort(np.concatenate([a.blocks, b.blocks]))
    a.n_passages += b.n_passages
    a.occurrences += b.occurrences
    a.position_totals += b.position_totals
    a.norms.limbs += b.norms.limbs
    a.covariances |= b.covariances
    a.positions.add(b.positions.hashes)
    a.passages |= b.passages
    for mine, theirs in zip(a.learned, b.learned, strict=True):
        mine.absorb(theirs, a.positions.cutoff)
    a.prune()
    return a
