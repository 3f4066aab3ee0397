"""The map: one block of a text through the model and every dictionary, into a state.

The model runs on the calling thread; what it fired is counted on others meanwhile, one dictionary a task.
"""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from indexer.counts.activation_statistics import position_edges
from indexer.counts.context_pools import draws
from indexer.counts.firings import Fired, Nearby, flat
from indexer.counts.name_counts import Relatives
from indexer.counts.positions import Stretch
from indexer.counts.state import IndexingError, Learned, Shape, State
from indexer.text_pass.blocks import Block
from lexiscope.dictionary import Dictionary
from lexiscope.language_model import LanguageModel
from lexiscope.sparse_code import SparseCode
from lexiscope.text import Batch, batches

TOKENS = 4096
"""Padded tokens a batch."""
STRETCH = 1 << 18
"""Fired of one dictionary counted at a time; more where there are many features, so that arrays over them
weigh little.
"""
LOSERS = 4
"""Pre-activations a token that just lost the selection and are looked at as near misses."""
LARGEST = 1e6
"""An activation above this is a mistake somewhere, and its fourth power would be too much for exact sums."""


class Subject(NamedTuple):
    """A dictionary to index, with its names."""

    layer: int
    dictionary: Dictionary
    names: np.ndarray
    """[d_sae] token ids"""
    logit_tokens: np.ndarray
    """[d_sae] the top token of each direction through norm and unembedding"""


class Held(NamedTuple):
    """What one dictionary fired on batches that are not counted yet."""

    codes: list[SparseCode]
    lost: list[SparseCode]


class Reading:
    """Reads blocks into `state`. `drain` before the state is used."""

    def __init__(
        self, model: LanguageModel, subjects: Sequence[Subject], relatives: Relatives, *, length: int
    ) -> None:
        self.model, self.subjects, self.relatives = model, subjects, relatives
        widths, layers = tuple(s.dictionary.d_sae for s in subjects), tuple(s.layer for s in subjects)
        self.state = State(Shape(model.vocab_size, length, widths, layers))
        self._edges = position_edges(length)
        self._layers = self.state.shape.distinct_layers
        self._limit = max([STRETCH, *(8 * width for width in widths)])
        self._threads = ThreadPoolExecutor(max(1, min(torch.get_num_threads(), len(subjects))))
        self._counting: list[Future[None]] = []
        self._kept = 0

    @torch.inference_mode()
    def read(self, block: Block) -> None:
        state, norms = self.state, np.zeros(len(self._layers))
        pending: list[Batch] = []
        held = [Held([], []) for _ in self.subjects]
        fired = 0
        for batch in batches(block.passages, tokens=TOKENS):
            if batch.tokens.shape[1] < 2:
                continue
            residuals = self.model.read(batch.tokens.to(self.model.device), self._layers)
            mask = batch.mask.to(self.model.device)
            streams = {layer: residuals[layer][mask].float() for layer in self._layers}
            norms += [x.norm(dim=-1).sum(dtype=torch.float64).item() for x in streams.values()]
            if block.number == 0 and not state.covariances:
                state.covariances = {layer: torch.cov(x.T).cpu().numpy() for layer, x in streams.items()}
            self._look_at(held, streams)
            pending.append(batch)
            fired += max(part.codes[-1].values.numel() for part in held)
            if fired >= self._limit:
                self._count(pending, held, block)
                pending, held, fired = [], [Held([], []) for _ in self.subjects], 0
        if pending:
            self._count(pending, held, block)
        self._finish(block, norms)

    def _look_at(self, held: list[Held], streams: dict[int, Tensor]) -> None:
        for subject, part in zip(self.subjects, held, strict=True):
            code, lost = subject.dictionary.select(streams[subject.layer], runners_up=LOSERS)
            highest = code.values.amax() if code.values.numel() else code.values.new_zeros(())
            if not highest <= LARGEST:
                raise IndexingError(
                    f"A feature of the dictionary at layer {subject.layer} is activated to {highest.item():.3g}: it cannot belong to "
                    f"{self.model.id}, or its weights are damaged."
                )
            part.codes.append(code)
            part.lost.append(lost)

    def _count(self, batches: list[Batch], held: list[Held], block: Block) -> None:
        self.drain()
        stretch = Stretch(batches, block.first, self._edges)
        self.state.positions.add(stretch.chance)
        cutoff = self.state.positions.cutoff
        jobs = zip(self.state.learned, self.subjects, held, strict=True)
        self._counting = [
            self._threads.submit(observe, *job, stretch, self.relatives, cutoff) for job in jobs
        ]
        self.state.occurrences += np.bincount(stretch.current, minlength=self.state.shape.vocab)
        self.state.position_totals += np.bincount(stretch.bin, minlength=len(self._edges) - 1)

    def _finish(self, block: Block, norms: np.ndarray) -> None:
        state = self.state
        state.norms.add(norms)
        state.passages |= {block.first + number: passage for number, passage in enumerate(block.passages)}
        state.n_passages += len(block.passages)
        state.blocks = np.append(state.blocks, block.number)
        if len(state.passages) > 2 * self._kept + 4096:
            self.drain()
            state.prune()
            self._kept = len(state.passages)

    def drain(self) -> None:
        """Wait until all that was read is counted."""
        waiting, self._counting = self._counting, []
        for job in waiting:
            job.result()

    def take(self) -> State:
        """The state so far; reading goes on with an empty one."""
        self.drain()
        taken, self.state, self._kept = self.state, State(self.state.shape), 0
        taken.blocks.sort()
        return taken


def observe(
    learned: Learned, subject: Subject, held: Held, stretch: Stretch, relatives: Relatives, cutoff: np.uint64
) -> None:
    """Count what one dictionary fired on a stretch."""
    found, lost = flat(held.codes), flat(held.lost)
    learned.statistics.add(found, stretch, subject.logit_tokens)
    learned.names.add(found, stretch, subject.names, relatives)
    learned.tokens.add(found, stretch)
    learned.coactive.add(found, stretch, cutoff)
    offers: list[tuple[Fired, np.ndarray]] = []
    for pool, offered, key in zip(
        learned.pools, (found, found, lost), (found.value, draws(found, stretch), lost.value), strict=True
    ):
        rows = pool.candidates(offered, key, stretch)
        offers.append((offered.rows(rows), key[rows]))
    nearby = Nearby(found, stretch, [place for place, _ in offers])
    for pool, (place, key) in zip(learned.pools, offers, strict=True):
        pool.add(place, key, stretch, nearby)
