"""What indexing costs beside the model: seconds of (forward pass + encoding) alone, and of indexing, in one
run on the same text.

    python bench/index_speed.py --model data/demo/model --runs /work/runs/demo/*-vasae --text data/demo/corpus.txt.xz --tokens 100000

The two take turns, block by block, so that a busy machine slows both; CPU seconds stand beside wall seconds.
What is done once per dictionary and not per token (names, logit effects, families) is timed apart. `--whole`
publishes an index and says its size and the time of everything but the ablation pass. `--shape gpt2` measures
memory at 12 × 50,257 features on synthetic firings, and says what Llama's 32 × 128,256 would take; `--shape
llama --dictionaries 4` measures a job that indexes four of its layers (the published index keeps the layers
that other jobs wrote).
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import duckdb
import numpy as np
import torch
from rich.console import Console

import indexer
from indexer.counts.state import PassState, StateShape
from indexer.counts.text_chunk import TextChunk
from indexer.dictionaries import identify, name_dictionary, named_encoder
from indexer.text_pass.blocks import Block, blocks
from indexer.text_pass.text_pass import (
    BATCH_TOKENS,
    NamedEncoder,
    PendingCodes,
    TextPass,
    count_chunk,
)
from lexiscope import text as texts
from lexiscope.checkpoint import load_checkpoint
from lexiscope.evidence import NameTables, families, matched_controls
from lexiscope.language_model import LanguageModel, load_language_model
from lexiscope.settings import Settings
from lexiscope.sparse_code import SparseCode
from lexiscope.text import batches
from lexiscope.tokens import Vocabulary


class Clock:
    def __init__(self) -> None:
        self.wall = self.cpu = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.wall += time.perf_counter() - wall
        self.cpu += time.process_time() - cpu


def peak() -> float:
    """GB of resident memory at most, mapped files included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


@torch.inference_mode()
def bare(model: LanguageModel, encoders: list[NamedEncoder], block: Block) -> None:
    layers = sorted({s.layer for s in encoders})
    for batch in batches(block.passages, tokens=BATCH_TOKENS):
        residuals = model.read(batch.tokens, layers)
        for each in encoders:
            each.dictionary.encode(residuals[each.layer][batch.mask])


def speed(args: argparse.Namespace) -> None:
    model = load_language_model(args.model)
    once = Clock()
    with once.running():
        encoders, counts = [], []
        for run in args.runs:
            checkpoint = load_checkpoint(run)
            assert checkpoint.fit is not None
            member = identify(model, checkpoint)
            named = name_dictionary(model, member, checkpoint.fit)
            encoders.append(named_encoder(model, member, named))
            counts.append(named.token_counts)
        tables = NameTables(
            families(model.embedding, Vocabulary(model.tokenizer, model.vocab_size).folded()),
            matched_controls(torch.stack(counts).mean(0)),
        )
    widths, layers = tuple(e.dictionary.d_sae for e in encoders), tuple(e.layer for e in encoders)
    shape = StateShape(model.vocab_size, args.length, widths, layers)
    text_pass = TextPass(model, encoders, tables, shape)
    alone, indexing = Clock(), Clock()
    n = 0
    passages = texts.passages(model, args.text, length=args.length, tokens=args.tokens)
    for block in blocks(passages):
        with alone.running():
            bare(model, encoders, block)
        with indexing.running():
            text_pass.read(block)
            text_pass.drain()
        n += block.n_tokens
    with indexing.running():
        text_pass.take_state().settle()
    print(
        f"{n:,} tokens, {len(encoders)} dictionaries of {encoders[0].dictionary.d_sae:,}, {torch.get_num_threads()} threads"
    )
    print(
        f"forward pass + encoding  {alone.wall:8.1f} s  {alone.cpu:8.1f} CPU s  {n / alone.wall:8,.0f} tokens/s"
    )
    print(
        f"indexing                 {indexing.wall:8.1f} s  {indexing.cpu:8.1f} CPU s  {n / indexing.wall:8,.0f} tokens/s"
    )
    print(
        f"ratio                    {indexing.wall / alone.wall:8.2f}    {indexing.cpu / alone.cpu:8.2f} CPU"
    )
    print(
        f"names, logit effects and families, once: {once.wall:.1f} s ({once.cpu:.1f} CPU s); peak memory {peak():.2f} GB"
    )


def whole(args: argparse.Namespace) -> None:
    """A published index: bytes a live feature, and seconds of everything."""
    model = load_language_model(args.model)
    with tempfile.TemporaryDirectory() as folder:
        clock = Clock()
        ask = indexer.IndexRequest(tokens=args.tokens, length=args.length, ablate=0)
        with clock.running():
            build = indexer.index(
                [(model, map(load_checkpoint, args.runs))],
                args.text,
                settings=Settings(index=Path(folder)),
                console=Console(),
                request=ask,
            )
        file = Path(folder) / f"{build}.duckdb"
        with duckdb.connect(str(file), read_only=True) as connection:
            [(live, contexts)] = connection.execute(
                "SELECT (SELECT sum(n_live) FROM layer_summary), (SELECT count(*) FROM context)"
            ).fetchall()
        size = file.stat().st_size
        print(
            f"index: {size / 1e6:.1f} MB, {live:,} live features, {contexts:,} contexts: {size / live:,.0f} bytes a live feature"
        )
        print(
            f"everything but the ablation pass: {clock.wall:.1f} s ({clock.cpu:.1f} CPU s); peak memory {peak():.2f} GB"
        )


class Model(NamedTuple):
    """A model's shape, with a feature a token in every layer."""

    layers: int
    vocab: int
    d: int

    def encoders(self, layers: int) -> float:
        """GB in float32."""
        return layers * self.vocab * self.d * 4 / 1e9


SHAPES = {"gpt2": Model(12, 50_257, 768), "llama": Model(32, 128_256, 4096)}


def memory(args: argparse.Namespace) -> None:
    """Synthetic firings (Zipf over features) of some layers' dictionaries, k 32: the state alone, and what it
    weighs.
    """
    model, k = SHAPES[args.shape], 32
    n_dictionaries, d_sae, vocab = args.dictionaries or model.layers, model.vocab, model.vocab
    draw = np.random.default_rng(0)
    shape = StateShape(vocab, 256, (d_sae,) * n_dictionaries, tuple(range(n_dictionaries)))
    state, before = PassState(shape), peak()
    tables = NameTables(torch.arange(vocab)[:, None], torch.arange(vocab)[:, None].flip(0))
    names = np.arange(d_sae)
    encoder = NamedEncoder(0, None, names, names)  # type: ignore[arg-type]
    weights = 1 / np.arange(20, 20 + d_sae) ** 0.8
    cumulative = (weights / weights.sum()).cumsum()
    for number in range(max(1, args.tokens // (128 * 255))):
        rows = draw.zipf(1.1, (128, 256)) % vocab
        passages = [row.astype(np.int32) for row in rows]
        state.passages |= {number * 128 + at: passage for at, passage in enumerate(passages)}
        (batch,) = batches(passages, tokens=10**7)
        chunk = TextChunk([batch], number * 128, np.array([1, 2, 4, 8, 16, 32, 64, 128, 256]))
        state.sampled_positions.add(chunk.hash)
        for each in state.dictionaries:
            indices = np.minimum(np.searchsorted(cumulative, draw.random((len(chunk), k + 4))), d_sae - 1)
            values = np.sort(draw.gamma(2, 1, indices.shape).astype(np.float32), 1)[:, ::-1].copy()
            codes = [
                SparseCode(torch.from_numpy(values[:, part]), torch.from_numpy(indices[:, part]))
                for part in (slice(k), slice(k, None))
            ]
            pending = PendingCodes([codes[0]], [codes[1]])
            count_chunk(each, encoder, pending, chunk, tables, state.sampled_positions.cutoff)
        if number % 8 == 7:
            state.prune()
    live = sum(int((each.statistics.count > 0).sum()) for each in state.dictionaries)
    held_bytes = sum(array.nbytes for array in state.arrays().values())
    encoders = model.encoders(n_dictionaries)
    print(
        f"{n_dictionaries} of {model.layers} layers x {d_sae:,} features, {live:,} fired, {args.tokens:,} tokens: "
        f"state {held_bytes / 1e9:.2f} GB settled, peak of the process {peak():.2f} GB ({before:.2f} before); "
        f"encoders of d {model.d} beside it {encoders:.2f} GB: {peak() + encoders:.2f} GB and the model"
    )
    per, llama = held_bytes / (n_dictionaries * d_sae), SHAPES["llama"]
    if args.shape != "llama":
        print(
            f"at Llama's shape, {llama.layers} x {llama.vocab:,}: state {per * llama.layers * llama.vocab / 1e9:.1f} GB, "
            f"encoders of d {llama.d:,} in float32 {llama.encoders(llama.layers):.0f} GB; "
            f"one layer at a time: {per * llama.vocab / 1e9:.2f} + {llama.encoders(1):.1f} GB"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="data/demo/model")
    parser.add_argument("--runs", type=Path, nargs="+", default=[])
    parser.add_argument("--text", nargs="+", default=["data/demo/corpus.txt.xz"])
    parser.add_argument("--tokens", type=int, default=100_000)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument(
        "--whole", action="store_true", help="publish an index into a folder that is then removed; its size"
    )
    parser.add_argument("--shape", choices=sorted(SHAPES), help="memory on synthetic firings")
    parser.add_argument(
        "--dictionaries", type=int, help="layers of the shape that one job indexes; all unless given"
    )
    args = parser.parse_args()
    if args.shape:
        memory(args)
    elif args.whole:
        whole(args)
    else:
        speed(args)


if __name__ == "__main__":
    main()
