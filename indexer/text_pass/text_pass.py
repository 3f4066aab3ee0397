"""The map: one block of a text through the model and every dictionary, counted into a state.

The model runs on the calling thread. Firings are counted meanwhile on other threads, one dictionary a task.
"""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from indexer.counts.activation_statistics import position_edges
from indexer.counts.context_pools import draws
from indexer.counts.firings import NearbyFirings
from indexer.counts.state import DictionaryCounts, PassState, StateShape
from indexer.counts.text_chunk import TextChunk
from indexer.errors import IndexingError
from indexer.text_pass.blocks import Block
from lexiscope.dictionary import Dictionary
from lexiscope.evidence import JUDGING, MAX_PASSAGES, FlatFirings, NameTables, flat_firings
from lexiscope.language_model import LanguageModel
from lexiscope.sparse_code import SparseCode
from lexiscope.text import Batch, batches

BATCH_TOKENS = 4096
"""Padded tokens a batch."""
CHUNK_FIRINGS = 1 << 18
"""Firings of one dictionary counted at a time; more where there are many features, so that arrays over
features cost little beside arrays over firings.
"""
RUNNERS_UP = 4
"""Pre-activations of a token that came closest to being selected: the candidates for near misses."""
MAX_ACTIVATION = 1e6
"""A larger activation is a mistake somewhere, and its fourth power would overflow the exact sums."""


class NamedEncoder(NamedTuple):
    """What the pass over the text needs of one dictionary: its encoder and its names."""

    layer: int
    dictionary: Dictionary
    """without decoder rows"""
    names: np.ndarray
    """[d_sae] token ids"""
    logit_tokens: np.ndarray
    """[d_sae] the token whose logit each direction raises most"""


class PendingCodes(NamedTuple):
    """The codes of one dictionary for batches that are not counted yet."""

    codes: list[SparseCode]
    runners_up: list[SparseCode]


class TextPass:
    """Reads blocks into `state`. Call `drain` before the state is used."""

    def __init__(
        self, model: LanguageModel, encoders: Sequence[NamedEncoder], tables: NameTables, shape: StateShape
    ) -> None:
        self.model, self.encoders, self.tables = model, encoders, tables
        self.state = PassState(shape)
        self._edges = position_edges(shape.length)
        self._layers = shape.distinct_layers
        self._chunk_firings = max([CHUNK_FIRINGS, *(8 * width for width in shape.widths)])
        self._threads = ThreadPoolExecutor(max(1, min(torch.get_num_threads(), len(encoders))))
        self._counting: list[Future[None]] = []
        self._n_passages_kept = 0

    @torch.inference_mode()
    def read(self, block: Block) -> None:
        if block.first + len(block.passages) > MAX_PASSAGES:
            raise IndexingError(
                f"This text has more than {MAX_PASSAGES:,} passages: index less of it (--tokens), or longer "
                "passages (--length)."
            )
        state, norms = self.state, np.zeros(len(self._layers))
        waiting: list[Batch] = []
        pending = [PendingCodes([], []) for _ in self.encoders]
        n_firings = 0
        for batch in batches(block.passages, tokens=BATCH_TOKENS):
            if batch.tokens.shape[1] < 2:
                continue
            residuals = self.model.read(batch.tokens.to(self.model.device), self._layers, fast=True)
            mask = batch.mask.to(self.model.device)
            streams = {layer: residuals[layer][mask].float() for layer in self._layers}
            norms += [x.norm(dim=-1).sum(dtype=torch.float64).item() for x in streams.values()]
            if block.number == 0 and not state.covariances:
                state.covariances = {layer: torch.cov(x.T).cpu().numpy() for layer, x in streams.items()}
            self._encode(streams, batch.tokens.to(mask.device)[mask], pending)
            waiting.append(batch)
            n_firings += max(part.codes[-1].values.numel() for part in pending)
            if n_firings >= self._chunk_firings:
                self._count(waiting, pending, block)
                waiting, pending, n_firings = [], [PendingCodes([], []) for _ in self.encoders], 0
        if waiting:
            self._count(waiting, pending, block)
        self._finish(block, norms)

    def _encode(self, streams: dict[int, Tensor], tokens: Tensor, pending: list[PendingCodes]) -> None:
        for encoder, part in zip(self.encoders, pending, strict=True):
            x = streams[encoder.layer]
            code, runners_up = encoder.dictionary.select(x, tokens, runners_up=RUNNERS_UP)
            highest = code.values.abs().amax() if code.values.numel() else code.values.new_zeros(())
            if not highest <= MAX_ACTIVATION:
                raise IndexingError(
                    f"A feature of the dictionary at layer {encoder.layer} is activated to "
                    f"{highest.item():.3g}: it cannot belong to {self.model.id}, or its weights are damaged."
                )
            part.codes.append(code)
            part.runners_up.append(runners_up)

    def _count(self, batches: list[Batch], pending: list[PendingCodes], block: Block) -> None:
        self.drain()
        chunk = TextChunk(batches, block.first, self._edges)
        self.state.sampled_positions.add(chunk.hash)
        cutoff = self.state.sampled_positions.cutoff
        tasks = zip(self.state.dictionaries, self.encoders, pending, strict=True)
        self._counting = [
            self._threads.submit(count_chunk, *task, chunk, self.tables, cutoff) for task in tasks
        ]
        self.state.relations.add(chunk, chunk.halves, self.tables.words)
        judged, vocab = chunk.halves[chunk.row] == JUDGING, self.state.shape.vocab
        self.state.occurrences += np.bincount(chunk.current, minlength=vocab)
        self.state.judged_occurrences += np.bincount(chunk.current[judged], minlength=vocab)
        self.state.position_totals += np.bincount(chunk.position_bin, minlength=len(self._edges) - 1)

    def _finish(self, block: Block, norms: np.ndarray) -> None:
        state = self.state
        state.norms.add(norms)
        state.passages |= {block.first + number: passage for number, passage in enumerate(block.passages)}
        state.n_passages += len(block.passages)
        state.blocks = np.append(state.blocks, block.number)
        if len(state.passages) > 2 * self._n_passages_kept + 4096:
            self.drain()
            state.prune()
            self._n_passages_kept = len(state.passages)

    def drain(self) -> None:
        """Wait until everything read is counted."""
        waiting, self._counting = self._counting, []
        for task in waiting:
            task.result()

    def take_state(self) -> PassState:
        """The state so far; reading goes on with an empty one."""
        self.drain()
        taken, self.state, self._n_passages_kept = self.state, PassState(self.state.shape), 0
        taken.blocks.sort()
        return taken


def count_chunk(
    counts: DictionaryCounts,
    encoder: NamedEncoder,
    pending: PendingCodes,
    chunk: TextChunk,
    tables: NameTables,
    cutoff: np.uint64,
) -> None:
    """Count the codes of one dictionary on a chunk; `cutoff` is of the sampled positions."""
    firings, runners_up = flat_firings(pending.codes), flat_firings(pending.runners_up)
    counts.statistics.add(firings, chunk, encoder.logit_tokens)
    half = chunk.halves.take(chunk.row.take(firings.at))
    counts.firings.add(firings.feature, half, chunk.code.take(firings.at))
    counts.names.add(firings.rows(np.flatnonzero(half == JUDGING)), chunk, encoder.names, tables)
    counts.tokens.add(firings, chunk)
    counts.coactive.add(firings, chunk, cutoff)
    offers: list[tuple[FlatFirings, np.ndarray]] = []
    keys = (np.abs(firings.value), draws(firings, chunk), np.abs(runners_up.value))
    for pool, offered, key in zip(counts.pools, (firings, firings, runners_up), keys, strict=True):
        rows = pool.candidates(offered, key, chunk)
        offers.append((offered.rows(rows), key[rows]))
    nearby = NearbyFirings(firings, chunk, [candidates for candidates, _ in offers])
    for pool, (candidates, key) in zip(counts.pools, offers, strict=True):
        pool.add(candidates, key, chunk, nearby)
