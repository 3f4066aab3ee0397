"""What building an index costs: time beside the forward pass and encoding alone, size, memory.

    python -m bench.index_speed --runs RUN...             time, the two taken in turns, block by block
    python -m bench.index_speed --runs RUN... --whole     publish an index: its size and time
    python -m bench.index_speed --shape llama --dictionaries 4    memory on synthetic firings, k 32

Turns of one block each make a busy machine slow both sides; CPU seconds stand beside wall seconds. What is
done once per dictionary (names, logit effects, families) is timed apart, and so is ablating every live
feature in CONTEXTS contexts.
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import duckdb
import numpy as np
import torch
from rich.console import Console

import indexer
from bench.report import Report, times, write_option
from indexer.counts.state import PassState, StateShape
from indexer.counts.text_chunk import TextChunk
from indexer.dictionaries import identify, name_dictionary, named_encoder
from indexer.rows.analysis import CausalAmounts, CountedModel, prepare
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
from lexiscope.evidence import NameTables, matched_controls
from lexiscope.language_model import LanguageModel, load_language_model
from lexiscope.settings import Settings
from lexiscope.sparse_code import SparseCode
from lexiscope.text import batches
from lexiscope.vocabulary_tables import family_table, word_table

CONTEXTS = 2
"""in which each live feature is ablated"""


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
        residuals = model.read(batch.tokens, layers, fast=True)
        for each in encoders:
            x = residuals[each.layer][batch.mask].float()
            each.dictionary.select(x, batch.tokens[batch.mask], runners_up=0)


class Turns:
    """Reading a text for an index, and the forward pass and encoding alone, in turns of one block."""

    def __init__(
        self, model: LanguageModel, runs: Sequence[Path], text: Sequence[str], *, tokens: int, length: int
    ) -> None:
        self.alone, self.indexing, self.once = Clock(), Clock(), Clock()
        self.n_tokens = 0
        self._model, self._blocks = (
            model,
            partial(blocks, texts.passages(model, text, length=length, tokens=tokens)),
        )
        with self.once.running():
            encoders, counts, self._members, self._named = [], [], [], []
            for run in runs:
                checkpoint = load_checkpoint(run)
                assert checkpoint.fit is not None
                member = identify(model, checkpoint)
                named = name_dictionary(model, member, checkpoint.fit)
                encoders.append(named_encoder(model, member, named))
                counts.append(named.token_counts)
                self._members.append(member)
                self._named.append(named)
            self._tables = tables = NameTables(
                family_table(model),
                matched_controls(torch.stack(counts).mean(0)),
                word_table(model),
            )
        widths, layers = tuple(e.dictionary.d_sae for e in encoders), tuple(e.layer for e in encoders)
        shape = StateShape(model.vocab_size, length, widths, layers)
        self.encoders, self._pass = encoders, TextPass(model, encoders, tables, shape)

    def run(self) -> "Turns":
        for block in self._blocks():
            with self.alone.running():
                bare(self._model, self.encoders, block)
            with self.indexing.running():
                self._pass.read(block)
                self._pass.drain()
            self.n_tokens += block.n_tokens
        with self.indexing.running():
            self.state = self._pass.take_state()
            self.state.settle()
        return self

    def ablate(self, contexts: int) -> Clock:
        """Ablate every live feature in so many contexts, after `run`."""
        model, clock = self._model, Clock()
        counted = CountedModel(
            model,
            self._members,
            self._named,
            lambda at: self._members[at].load_fit(),
            model.vocabulary,
            self._tables,
            self.state,
        )
        with clock.running():
            prepare(counted, {}, CausalAmounts(contexts, 0, torch.zeros(0, dtype=torch.long)))
        return clock

    @property
    def ratio(self) -> float:
        """of CPU time"""
        return self.indexing.cpu / self.alone.cpu


def speed(args: argparse.Namespace, report: Report) -> None:
    for path, runs, text in zip(args.model, args.runs, args.text, strict=True):
        speed_of(load_language_model(path), runs, [text], args, report)


def speed_of(
    model: LanguageModel, runs: list[Path], text: list[str], args: argparse.Namespace, report: Report
) -> None:
    turns = Turns(model, runs, text, tokens=args.tokens, length=args.length).run()
    encoders, n, alone, indexing = turns.encoders, turns.n_tokens, turns.alone, turns.indexing
    title = f"{model.id}: {len(encoders)} × {encoders[0].dictionary.d_sae:,} features, {n:,} tokens"
    table = report.table(f"{title}, {torch.get_num_threads()} threads", ["", "wall s", "CPU s", "tokens/s"])
    for label, clock in (("forward pass and encoding", alone), ("indexing", indexing)):
        table.rows.append([label, f"{clock.wall:.1f}", f"{clock.cpu:.1f}", f"{n / clock.wall:,.0f}"])
    table.rows.append(["ratio (≤ 1.3)", times(indexing.wall, alone.wall), times(indexing.cpu, alone.cpu), ""])
    ablating = turns.ablate(CONTEXTS)
    beside = times(ablating.wall, indexing.wall), times(ablating.cpu, indexing.cpu)
    table.rows.append([f"ablation, {CONTEXTS} contexts", f"{ablating.wall:.1f}", f"{ablating.cpu:.1f}", ""])
    table.rows.append(["ablation beside indexing (≤ 1)", *beside, ""])
    table.rows.append(["once per dictionary", f"{turns.once.wall:.1f}", f"{turns.once.cpu:.1f}", ""])
    report.notes.append(f"Peak memory after {model.id}: {peak():.2f} GB.")


def whole(args: argparse.Namespace, report: Report) -> None:
    """A published index: bytes a live feature, and the time of everything but the ablation pass."""
    model = load_language_model(args.model[0])
    with tempfile.TemporaryDirectory() as folder:
        clock = Clock()
        ask = indexer.IndexRequest(tokens=args.tokens, length=args.length, ablate=0)
        with clock.running():
            build = indexer.index(
                [(model, map(load_checkpoint, args.runs[0]))],
                args.text[:1],
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
        table = report.table(f"A published index of {args.tokens:,} tokens", ["", "figure"])
        table.rows += [
            ["size", f"{size / 1e6:.1f} MB"],
            ["live features", f"{live:,}"],
            ["contexts", f"{contexts:,}"],
            ["bytes a live feature (≤ 2,000)", f"{size / live:,.0f}"],
            ["wall s, without the ablation pass", f"{clock.wall:.1f} ({clock.cpu:.1f} CPU s)"],
            ["peak memory", f"{peak():.2f} GB"],
        ]


class Model(NamedTuple):
    """A model's shape, with a feature a token in every layer."""

    layers: int
    vocab: int
    d: int

    def encoders(self, layers: int) -> float:
        """GB in float32."""
        return layers * self.vocab * self.d * 4 / 1e9


SHAPES = {"gpt2": Model(12, 50_257, 768), "llama": Model(32, 128_256, 4096)}


def memory(args: argparse.Namespace, report: Report) -> None:
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
    title = f"{args.shape}: {n_dictionaries} of {model.layers} layers × {d_sae:,} features"
    table = report.table(
        f"{title}, {args.tokens:,} tokens",
        [
            "features that fired",
            "state, settled",
            "peak of the process",
            "encoders",
            "all, without the model",
        ],
    )
    table.rows.append(
        [
            f"{live:,}",
            f"{held_bytes / 1e9:.2f} GB",
            f"{peak():.2f} GB (start: {before:.2f})",
            f"{encoders:.2f} GB",
            f"{peak() + encoders:.2f} GB",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", action="append", help="the bundled one unless given")
    parser.add_argument(
        "--runs",
        type=Path,
        nargs="+",
        action="append",
        help="dictionaries of that model; once for each model",
    )
    parser.add_argument("--text", action="append", help="one for each model; the bundled one unless given")
    parser.add_argument("--tokens", type=int, default=100_000)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--whole", action="store_true", help="publish an index into a temporary folder")
    parser.add_argument("--shape", choices=sorted(SHAPES), help="memory on synthetic firings")
    parser.add_argument("--dictionaries", type=int, help="layers of the shape in one job; all unless given")
    write_option(parser)
    args = parser.parse_args()
    if not args.runs and not args.shape:
        parser.error("give --runs, or a --shape")
    args.model = args.model or ["data/demo/model"]
    args.text = args.text or ["data/demo/corpus.txt.xz"]
    if args.runs and not len(args.model) == len(args.runs) == len(args.text):
        parser.error("give --model, --runs and --text as often as one another")
    kind = "memory" if args.shape else "size" if args.whole else "speed"
    report = Report("index_speed", kept_as=f"index_{kind}")
    {"memory": memory, "size": whole, "speed": speed}[kind](args, report)
    report.finish(write=args.write)


if __name__ == "__main__":
    main()
