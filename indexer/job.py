"""`lexiscope index`: checkpoints and a text in, one published build of the index out.

Every model's text is read once for all its dictionaries (`reading`, by an engine), block by block; what was
learned is saved now and then (`work`). Then what the weights alone say is added and everything is loaded at
once (`writing`). Until `publish`, the old index serves.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import Literal, NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from indexer.counts.name_counts import Relatives
from indexer.counts.state import FORMAT, IndexingError, Shape, State
from indexer.dictionaries import Member, Named, identify_all, name, subject
from indexer.fit_anchors import fit_anchors
from indexer.job_files import KEPT, Work, check_space, fingerprint
from indexer.rows.ablation import CONTEXTS
from indexer.rows.publish import Learned, write_model
from indexer.text_pass.blocks import BLOCK, Block, Shard, blocks
from indexer.text_pass.local_engine import Engine, local
from indexer.text_pass.text_pass import TOKENS, Reading, Subject
from lexiscope import text as texts
from lexiscope.checkpoint import AnchorFit, Checkpoint
from lexiscope.evidence import families, matched_controls
from lexiscope.language_model import LanguageModel
from lexiscope.settings import Settings
from lexiscope.tokens import Vocabulary
from store import Builder

LOG_TOKENS = 50_000
"""Where the output is no terminal, a line of progress this often."""
LONGEST = 1 << 16
"""Tokens of a passage; positions are kept in 16 bits."""
BYTES_A_FEATURE = 4000
"""On disk: 2 kB in the index, as much in the work towards it."""

EngineName = Literal["local", "ray"]


class Ask(NamedTuple):
    """What is asked of the indexer, beside dictionaries and text."""

    tokens: int | None = None
    """of text to read, at most"""
    length: int = 256
    """tokens of a passage, BOS included"""
    engine: EngineName = "local"
    shard: Shard | None = None
    """read these blocks only, save what they taught and stop"""
    resume: bool = False
    """go on from what is saved of the same job"""
    ablate: int = CONTEXTS
    """contexts in which each live feature is taken away; 0 leaves the ablation pass out"""
    anchors: str = "current"
    """the anchor set fitted from the text for dictionaries that carry none"""


USUAL = Ask()


class Job(NamedTuple):
    """One model's part."""

    model: LanguageModel
    members: list[Member]
    work: Work
    shape: Shape
    sources: Sequence[str]
    ask: Ask
    console: Console

    def passages(self) -> Iterator[np.ndarray]:
        return texts.passages(self.model, self.sources, length=self.shape.length, tokens=self.ask.tokens)


def index(
    groups: Sequence[tuple[LanguageModel, Iterable[Checkpoint]]],
    sources: Sequence[str],
    *,
    settings: Settings,
    console: Console,
    ask: Ask = USUAL,
) -> str | None:
    """Index every checkpoint of every model over the text; other dictionaries of the served index are kept.

    Checkpoints are taken one at a time and their weights read again from where they lie. Returns the build
    id; None where a shard was read, which publishes nothing. Raises CheckpointError, TextError, ModelError,
    IndexingError, StoreError.
    """
    if ask.length > LONGEST:
        raise IndexingError(f"--length {ask.length:,} is more than {LONGEST:,}, the most a passage can have.")
    identified = identify_all(groups)
    text = texts.fingerprint(sources)
    jobs = [_job(model, members, text, sources, settings, ask, console) for model, members in identified]
    if ask.shard is None:
        with Builder(settings):
            pass  # a builder that cannot build says so before the text is read, not after
    with ExitStack() as held:
        for job in jobs:
            held.enter_context(job.work.lock())
        check_space(settings.index, sum(BYTES_A_FEATURE * sum(job.shape.widths) for job in jobs))
        try:
            learned = [learn(job) for job in jobs]
        except KeyboardInterrupt:
            raise IndexingError(
                f"Interrupted: nothing was published. The same command with --resume goes on. {KEPT}"
            ) from None
        if ask.shard is not None:
            for job in jobs:
                _say_what_is_missing(job)
            return None
        with Builder(settings) as builder:
            kept = builder.keep_others(
                replacing=[(model.id, member.source) for model, members in identified for member in members]
            )
            if kept.note:
                console.print(kept.note)
            for job, found in zip(jobs, learned, strict=True):
                write_model(
                    builder, job.model, job.members, found, corpus=text, console=console, ablate=ask.ablate
                )
            build = builder.publish()
        for job in jobs:
            job.work.remove()
    return build


def _job(
    model: LanguageModel,
    members: list[Member],
    text: str,
    sources: Sequence[str],
    settings: Settings,
    ask: Ask,
    console: Console,
) -> Job:
    length = min(ask.length, model.context_length)
    shape = Shape(model.vocab_size, length, tuple(m.d_sae for m in members), tuple(m.layer for m in members))
    weights = [(member.source, member.fingerprint) for member in members]
    key = fingerprint(
        FORMAT, BLOCK, TOKENS, model.fingerprint, model.id, weights, text, ask.tokens, length, ask.anchors
    )
    return Job(model, members, Work(settings.index, key, shape, ask.shard), shape, sources, ask, console)


def learn(job: Job) -> Learned:
    """Names, then everything the text says: all of it, or a shard's part."""
    model, ask, console = job.model, job.ask, job.console
    if job.work.unfinished() and not ask.resume:
        console.print(
            f"{model.id}: there is unfinished work of this very job in {job.work.folder}; --resume goes on from it."
        )
    state = job.work.load() if ask.resume else State(job.shape)
    if len(state.blocks):
        console.print(
            f"{model.id}: going on after {len(state.blocks):,} blocks of the text ({state.n_tokens:,} tokens)."
        )
    vocabulary = Vocabulary(model.tokenizer, model.vocab_size)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f}"),
        TimeRemainingColumn(),
        console=console,
    ) as progress:
        task = progress.add_task(f"{model.id}: naming", total=len(job.members))
        fits = Fits(job)
        named: list[Named] = []
        for at, member in enumerate(job.members):
            named.append(name(model, member, fits(at)))
            progress.advance(task)
        relatives = Relatives(
            families(model.embedding.cpu(), vocabulary.folded()),
            matched_controls(torch.stack([n.counts for n in named]).mean(0)),
        )
        task = progress.add_task(
            f"{model.id}: reading the text (tokens)", total=ask.tokens, completed=state.n_tokens
        )

        def advance(n: int) -> None:
            before = progress.tasks[task].completed
            progress.advance(task, n)
            if not console.is_terminal and before // LOG_TOKENS < (before + n) // LOG_TOKENS:
                console.print(f"{model.id}: {before + n:,.0f} tokens read")

        subjects = [subject(model, member, each) for member, each in zip(job.members, named, strict=True)]
        engine = _engine(job, subjects, relatives)
        there = {int(number) for number in state.blocks}
        state = engine(state, _mine(job, there), advance=advance, save=job.work.save)
    state.settle()
    _check(job, state)
    if ask.shard is not None:
        job.work.save(state, finished=True)
    return Learned(state, named, fits, vocabulary, relatives)


class Fits:
    """The anchors of each member: its own, or those fitted from the text, which are kept so that a resumed
    job has the same names.
    """

    def __init__(self, job: Job) -> None:
        self._job = job

    def __call__(self, at: int) -> AnchorFit:
        member = self._job.members[at]
        if member.anchored:
            return member.fit()
        fit = self._job.work.load_fit(member.layer)
        if fit is None:
            layers = sorted({m.layer for m in self._job.members if not m.anchored})
            for layer, found in fit_anchors(
                self._job.model, layers, self._job.passages(), anchors=self._job.ask.anchors
            ).items():
                self._job.work.save_fit(layer, found)
            fit = self._job.work.load_fit(member.layer)
            assert fit is not None
        return fit._replace(assigned=torch.full((member.d_sae,), -1))


def _engine(job: Job, subjects: Sequence[Subject], relatives: Relatives) -> Engine:
    if job.ask.engine == "ray":
        from indexer.text_pass.ray_engine import on_ray

        return on_ray(job.model, subjects, relatives, length=job.shape.length)
    return local(Reading(job.model, subjects, relatives, length=job.shape.length))


def _mine(job: Job, there: set[int]) -> Iterator[Block]:
    """The blocks that are still to be read; raises IndexingError where a shard has none."""
    number = -1
    held = False
    shard = job.ask.shard
    for block in blocks(job.passages()):
        number = block.number
        mine = shard is None or shard.holds(number)
        held |= mine
        if mine and number not in there:
            yield block
    if not held:
        raise IndexingError(
            f"Shard {shard} has nothing to read: the text has {number + 1} block{'s' if number else ''} of {BLOCK} passages, "
            f"so it can be divided into at most {number + 1}. {KEPT}"
        )


def _check(job: Job, state: State) -> None:
    if job.ask.shard is None and not any((each.statistics.count > 0).any() for each in state.learned):
        raise IndexingError(
            f"No feature of these dictionaries fires anywhere in this text: there is nothing to index. {KEPT}"
        )


def _say_what_is_missing(job: Job) -> None:
    missing, shard = job.work.missing_shards(), job.ask.shard
    assert shard is not None
    if missing:
        listed = ", ".join(f"{number}/{shard.of}" for number in missing[:12]) + (
            " …" if len(missing) > 12 else ""
        )
        job.console.print(
            f"{job.model.id}: shard {shard} is read. Missing: {listed}. Once they are there, --resume publishes (and reads the rest)."
        )
    else:
        job.console.print(
            f"{job.model.id}: shard {shard} is read, and all others are there: the same command with --resume, without --shards, publishes."
        )
