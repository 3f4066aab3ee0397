"""What one step trains on: the activations of some positions, or of whole passages, in an order that the seed
fixes.

The batch at a step follows from the seed, the filling of the buffer and the step alone, so that a resumed run
sees what an uninterrupted one would have seen.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

VALIDATION_EVERY = 6
"""Every sixth passage validates, where a recipe stops early (the VASAE paper's 10,000 rows beside 50,000)."""


class WholePassages(NamedTuple):
    """Whole passages, padded on the right."""

    tokens: Tensor
    """[passages, positions] token ids"""
    places: Tensor
    """[passages, positions] True where an activation of the batch stands: `residual[places] = x` puts all n
    back
    """


class TrainingBatch(NamedTuple):
    """What one step trains on."""

    x: Tensor
    """[n, d_in] normalised activations, float32"""
    target: Tensor
    """[n, d_out] what is reconstructed: x itself, but for a transcoder"""
    tokens: Tensor
    """[n] the token each activation stands on"""
    passages: WholePassages | None = None
    """where the activations stand in their passages; None where the batch is of single positions"""


class LayerActivations(NamedTuple):
    """Harvested activations of one layer, passage after passage."""

    x: Tensor
    """[n, d] bf16, raw"""
    tokens: Tensor
    """[n] the token each stands on"""
    starts: Tensor
    """[passages] where each passage begins"""
    numbers: Tensor
    """[passages] its number in the text"""
    bos: int | None
    """the token at position 0 of each passage, where that position is not among the activations"""
    target: Tensor | None = None
    """[n, d_out] bf16, raw: what a transcoder reconstructs from x; None where that is x itself"""
    sources: Tensor | None = None
    """[text's passages] the source of each, in the order of the text; None where all have one"""

    @property
    def lengths(self) -> Tensor:
        """[passages] activations of each passage."""
        return torch.cat([self.starts, self.starts.new_tensor([len(self.tokens)])]).diff()

    def positions(self, passages: Tensor) -> Tensor:
        """[m] rows of x that belong to the given passages, in their order."""
        lengths = self.lengths[passages]
        begins = (self.starts[passages] - lengths.cumsum(0) + lengths).repeat_interleave(lengths)
        return begins + torch.arange(len(begins))

    def whole(self, passages: Tensor) -> WholePassages:
        """The given passages, padded; their activations are those at `positions(passages)`."""
        lengths, first = self.lengths[passages], 0 if self.bos is None else 1
        places = torch.zeros(len(passages), int(lengths.max()) + first, dtype=torch.bool)
        places[:, first:] = torch.arange(places.shape[1] - first) < lengths[:, None]
        tokens = torch.full(places.shape, self.bos or 0)
        tokens[places] = self.tokens[self.positions(passages)]
        return WholePassages(tokens, places)

    def validation(self) -> Tensor:
        """[passages] bool: every sixth of the text."""
        sources = [0] * len(self.numbers) if self.sources is None else self.sources.tolist()
        return torch.tensor(list(every_nth(sources, VALIDATION_EVERY)))[self.numbers]


def every_nth(sources: Iterable[int], n: int) -> Iterator[bool]:
    """Whether each passage is one of every n, from its source. One is due at the n-th, 2n-th, … passage, and
    is the next whose source has no larger share of them than an n-th: several sources, which are read in
    turn, all have a share.
    """
    read, taken, all_taken = Counter[int](), Counter[int](), 0
    for all_read, source in enumerate(sources, 1):
        read[source] += 1
        due = all_taken < all_read // n and taken[source] * n < read[source]
        taken[source] += due
        all_taken += due
        yield due


class Rows(NamedTuple):
    """The rows of x that one step trains on."""

    positions: Tensor
    """[n]"""
    passages: Tensor | None = None
    """which passages they are, where they are whole ones"""


class BatchOrder(ABC):
    """The rows of every step on one filling of the buffer, epoch after epoch."""

    per_epoch: int
    """steps"""

    def __init__(self, n: int, batch: int, seed: tuple[int, int]) -> None:
        """Shuffles n items; `seed` is the run's and the first epoch's number."""
        self.n, self.batch = n, batch
        self._seed, self._epoch, self._order = seed, -1, torch.arange(0)

    def _shuffled(self, epoch: int) -> Tensor:
        """[n] the items in the order of this epoch."""
        if epoch != self._epoch:
            run, first = self._seed
            self._epoch, self._order = epoch, permutation(self.n, run, first + epoch)
        return self._order

    @abstractmethod
    def rows(self, epoch: int, at: int) -> Rows:
        """The rows of the step `at` (from 0) of an epoch (from 0)."""


class PositionOrder(BatchOrder):
    """Single positions, shuffled; a last part that is smaller than a batch is left out."""

    def __init__(self, positions: Tensor, total: int, batch: int, seed: tuple[int, int]) -> None:
        """`positions` [m] of the filling's `total` are trained on; the steps of an epoch are counted by
        `total`, which is known from the text alone.
        """
        super().__init__(len(positions), batch, seed)
        self.positions, self.per_epoch = positions, total // batch

    def rows(self, epoch: int, at: int) -> Rows:
        order = self._shuffled(epoch)
        return Rows(self.positions[order[torch.arange(at * self.batch, (at + 1) * self.batch) % self.n]])


class PassageOrder(BatchOrder):
    """Whole passages, shuffled; the last batch of an epoch may be smaller."""

    def __init__(
        self, activations: LayerActivations, passages: Tensor, batch: int, seed: tuple[int, int]
    ) -> None:
        """`passages` [p] are trained on, `batch` of them a step."""
        super().__init__(len(passages), batch, seed)
        self.activations, self.passages, self.per_epoch = activations, passages, -(-self.n // batch)

    def rows(self, epoch: int, at: int) -> Rows:
        order = self._shuffled(epoch)[at * self.batch : (at + 1) * self.batch]
        passages = self.passages[order]
        return Rows(self.activations.positions(passages), passages)


def permutation(n: int, *seed: int) -> Tensor:
    """[n] a permutation that the seeds fix."""
    mixed = int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0] >> 1)
    return torch.randperm(n, generator=torch.Generator().manual_seed(mixed))
