"""`lexiscope index`: checkpoints and a text in, one published build of the index out.

The text is read once for all dictionaries of a model, block by block, and what was counted is saved from time
to time (`job_files`). Then everything is added that the weights say, and the rows are written at once
(`rows`). Until the new build is published, the old one is served.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from indexer.causal.effects import CONTEXTS, STEERED
from indexer.counts.state import FORMAT, PassState, StateShape
from indexer.dictionaries import IdentifiedCheckpoint, identify_all, name_dictionary, named_encoder
from indexer.errors import IndexingError
from indexer.fit_anchors import fit_anchors
from indexer.job_files import KEPT, JobFolder, check_space, fingerprint
from indexer.lenses import NO_LENSES, Lenses, jacobian_lenses
from indexer.model_identity import by_model, refuse_other_model, trained_on_other
from indexer.rows.analysis import CountedModel
from indexer.rows.model_rows import add_model
from indexer.text_pass.blocks import BLOCK_PASSAGES, Block, Shard, blocks
from indexer.text_pass.local_engine import SAVE_SECONDS, PassEngine, local_engine
from indexer.text_pass.text_pass import BATCH_TOKENS, NamedEncoder, TextPass
from lexiscope import text as texts
from lexiscope.checkpoint import AnchorFit, Checkpoint
from lexiscope.evidence import (
    CHOOSING,
    FlatText,
    NameTables,
    halves_of,
    matched_controls,
)
from lexiscope.language_model import LanguageModel
from lexiscope.precision import fast_dtype
from lexiscope.progress import say, watched
from lexiscope.settings import Settings
from lexiscope.vocabulary_tables import family_table, word_table
from store import BuildLocked, BuildWriter

LOG_TOKENS = 50_000
"""Where the output is not a terminal, progress is printed once in so many tokens."""
MAX_LENGTH = 1 << 16
"""Tokens of a passage; positions are kept in 16 bits."""
WAIT_SECONDS = 1.0
"""Between looks whether another process still writes a build."""
BYTES_A_FEATURE = 8000
"""On disk: 2 kB in the index; in the unfinished work as much, and 4 kB of sampled firings at most."""


class IndexRequest(NamedTuple):
    """What `lexiscope index` is asked to do, apart from dictionaries and text."""

    tokens: int | None = None
    """tokens of text to read, at most"""
    length: int = 256
    """tokens of a passage, BOS included"""
    engine: Literal["local", "ray"] = "local"
    shard: Shard | None = None
    """read these blocks only, save what was counted and stop"""
    resume: bool = False
    """continue from what is saved of the same job"""
    ablate: int = CONTEXTS
    """contexts in which each live feature is ablated; 0 leaves the ablation pass out"""
    steer: int = STEERED
    """live features, and content words, that the causal pass steers in each dictionary"""
    lens_prompts: int = 0
    """passages that the Jacobian lens is fitted on; 0 leaves it out"""
    anchors: str = "current"
    """the anchor set fitted from the text for dictionaries that carry none"""
    block_passages: int = BLOCK_PASSAGES
    """passages of a block, the unit that is saved and that shards divide"""
    save_seconds: float = SAVE_SECONDS
    """seconds between saves, at least"""


@dataclass(frozen=True)
class ModelJob:
    """The part of a job that is about one model."""

    model: LanguageModel
    members: list[IdentifiedCheckpoint]
    folder: JobFolder
    sources: Sequence[str]
    request: IndexRequest
    console: Console

    @property
    def shape(self) -> StateShape:
        return self.folder.shape

    def passages(self) -> texts.Passages:
        return texts.passages(self.model, self.sources, length=self.shape.length, tokens=self.request.tokens)

    def say(self, message: str) -> None:
        self.console.print(f"{self.model.id}: {message}", highlight=False)
        say(message)


def index(
    groups: Sequence[tuple[LanguageModel, Iterable[Checkpoint]]],
    sources: Sequence[str],
    *,
    settings: Settings,
    console: Console,
    request: IndexRequest = IndexRequest(),  # noqa: B008
) -> str | None:
    """Index every checkpoint of every model over the text; other dictionaries of the served index are kept.

    Checkpoints are taken one at a time, and their weights are read again from their files. Returns the build
    id; None where a shard was read, which publishes nothing. Raises CheckpointError, TextError, ModelError,
    IndexingError, StoreError.
    """
    if request.length > MAX_LENGTH:
        raise IndexingError(
            f"--length {request.length:,} is more than {MAX_LENGTH:,}, the most a passage can have."
        )
    identified = identify_all(by_model(groups))
    for model, members in identified:
        for line in refuse_other_model(model, [member.source for member in members], settings):
            console.print(f"{line}.", highlight=False)
        for member in members:
            if line := trained_on_other(model, member.checkpoint):
                console.print(f"WARNING: {line}.", highlight=False)
    corpus = texts.fingerprint(sources)
    jobs = [
        ModelJob(
            model, members, _folder(model, members, corpus, settings, request), sources, request, console
        )
        for model, members in identified
    ]
    if request.shard is None:
        with suppress(BuildLocked), BuildWriter(settings) as writer:
            # what cannot be written or kept is said before the text is read, not after
            if note := writer.note_on_others():
                console.print(f"{note}.", highlight=False)
    with ExitStack() as locks:
        for job in jobs:
            locks.enter_context(job.folder.lock())
        check_space(settings.index, sum(BYTES_A_FEATURE * sum(job.shape.widths) for job in jobs))
        try:
            counted = [count_text(job) for job in jobs]
            if request.shard is not None:
                for job in jobs:
                    _report_missing_shards(job)
                return None
            lenses = [_lenses(job, settings) for job in jobs]
            build = _publish(jobs, counted, lenses, corpus, settings)
        except KeyboardInterrupt:
            raise IndexingError(
                f"Interrupted: nothing was published. The same command with --resume continues. {KEPT}"
            ) from None
        for job in jobs:
            job.folder.remove()
    return build


def _folder(
    model: LanguageModel,
    members: list[IdentifiedCheckpoint],
    corpus: str,
    settings: Settings,
    request: IndexRequest,
) -> JobFolder:
    length = min(request.length, model.context_length)
    widths, layers = tuple(m.d_sae for m in members), tuple(m.layer for m in members)
    shape = StateShape(model.vocab_size, length, widths, layers)
    weights = [(member.source, member.fingerprint) for member in members]
    key = fingerprint(
        *(FORMAT, request.block_passages, BATCH_TOKENS, model.fingerprint, model.id),
        *(weights, corpus, request.tokens, length, request.anchors, fast_dtype(model.device)),
    )
    return JobFolder(settings.index, key, shape, request.shard)


def _lenses(job: ModelJob, settings: Settings) -> Lenses:
    """Of the job's dictionaries; none where the lens is left out."""
    prompts = job.request.lens_prompts
    if not prompts:
        return NO_LENSES
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with watched(Progress(*columns, console=job.console)) as progress:
        task = progress.add_task(f"{job.model.id}: fitting the Jacobian lens", total=prompts)
        lenses = jacobian_lenses(
            job.model,
            [member.layer for member in job.members],
            job.passages(),
            prompts=prompts,
            folder=settings.lenses,
            advance=lambda n: progress.advance(task, n),
        )
        progress.update(task, completed=prompts)
    return lenses


def _publish(
    jobs: Sequence[ModelJob],
    counted: Sequence[CountedModel],
    lenses: Sequence[Lenses],
    corpus: str,
    settings: Settings,
) -> str:
    with _build_writer(jobs[0], settings) as writer:
        for job in jobs:  # another job may have published while this one read
            refuse_other_model(job.model, [member.source for member in job.members], settings)
        kept = writer.keep_others(
            replacing=[(job.model.id, member.source) for job in jobs for member in job.members]
        )
        if kept.note:
            jobs[0].console.print(kept.note)
        for job, model, lens in zip(jobs, counted, lenses, strict=True):
            add_model(
                writer,
                model,
                lens.by_layer,
                lens_path=lens.path,
                text=", ".join(texts.Text.of(job.sources).names()),
                corpus=corpus,
                contexts=job.request.ablate,
                steered=job.request.steer,
                say=job.say,
            )
        return writer.publish()


@contextmanager
def _build_writer(job: ModelJob, settings: Settings) -> Iterator[BuildWriter]:
    """Waits while another process writes a build."""
    with ExitStack() as held:
        said = False
        while True:
            try:
                writer = held.enter_context(BuildWriter(settings))
                break
            except BuildLocked as error:
                if not said:
                    job.say(f"{error}; what was counted is saved, and this job publishes then.")
                said = True
                time.sleep(WAIT_SECONDS)
        yield writer


def count_text(job: ModelJob) -> CountedModel:
    """Name all dictionaries, then read the text and count: all of it, or a shard."""
    model, request = job.model, job.request
    if job.folder.unfinished() and not request.resume:
        job.say(f"there is unfinished work of this very job in {job.folder.path}; --resume continues it.")
    state = job.folder.load() if request.resume else PassState(job.shape)
    if len(state.blocks):
        job.say(f"continuing after {len(state.blocks):,} blocks of the text ({state.n_tokens:,} tokens).")
    elif request.resume and (others := job.folder.others()):
        job.say(
            "no unfinished work is of this very job. That of others, begun with other dictionaries, text or "
            f"settings, is in {', '.join(map(str, others))}: --resume continues one with the options it was "
            "begun with; delete those that are no longer needed."
        )
    fits = AnchorFits(job)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f}"),
        TimeRemainingColumn(),
    )
    with watched(Progress(*columns, console=job.console)) as progress:
        task = progress.add_task(f"{model.id}: naming features", total=len(job.members))
        named = []
        for at, member in enumerate(job.members):
            named.append(name_dictionary(model, member, fits(at)))
            progress.advance(task)
        tables = NameTables(
            family_table(model),
            matched_controls(torch.stack([features.token_counts for features in named]).mean(0)),
            word_table(model),
        )
        task = progress.add_task(
            f"{model.id}: reading the text (tokens)", total=request.tokens, completed=state.n_tokens
        )

        def advance(n: int) -> None:
            before = progress.tasks[task].completed
            progress.advance(task, n)
            if not job.console.is_terminal and before // LOG_TOKENS < (before + n) // LOG_TOKENS:
                job.say(f"{before + n:,.0f} tokens read")

        encoders = [named_encoder(model, *pair) for pair in zip(job.members, named, strict=True)]
        read = _engine(job, encoders, tables)
        done = {int(number) for number in state.blocks}
        state = read(state, _blocks_to_read(job, done), advance=advance, save=job.folder.save)
    state.settle()
    job.say(job.passages().report.sentence())
    _check_firings(job, state)
    if request.shard is not None or len(state.blocks) > len(done):
        job.folder.save(state, finished=True)
    return CountedModel(model, job.members, named, fits, model.vocabulary, tables, state)


class AnchorFits:
    """The anchors of each member: its own, or those fitted from the text. These are saved, so that a resumed
    job has the same names.
    """

    def __init__(self, job: ModelJob) -> None:
        self._job = job

    def __call__(self, at: int) -> AnchorFit:
        member = self._job.members[at]
        if member.has_anchors:
            return member.load_fit()
        fit = self._fitted(member.layer)
        return fit._replace(assigned=torch.full((member.d_sae,), -1))

    def _fitted(self, layer: int) -> AnchorFit:
        job = self._job
        with job.folder.fit_lock():
            fit = job.folder.load_fit(layer)
            if fit is not None:
                return fit
            layers = sorted({member.layer for member in job.members if not member.has_anchors})
            fits = fit_anchors(job.model, layers, _choosing(job.passages()), anchors=job.request.anchors)
            for fitted_layer, fitted in fits.items():
                job.folder.save_fit(fitted_layer, fitted)
            return fits[layer]


def _choosing(passages: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """The half of the passages that names are chosen on: what anchors are fitted on, because the evidence for
    them is counted on the other half. A text without such a passage gives its first ones.
    """
    others: list[np.ndarray] | None = []
    for passage in passages:
        if halves_of(FlatText([passage], filters=False))[0] == CHOOSING:
            others = None
            yield passage
        elif others is not None and len(others) < BLOCK_PASSAGES:
            others.append(passage)
    yield from others or []


def _engine(job: ModelJob, encoders: Sequence[NamedEncoder], tables: NameTables) -> PassEngine:
    if job.request.engine == "ray":
        from indexer.text_pass.ray_engine import ray_engine

        return ray_engine(job.model, encoders, tables, job.shape)
    return local_engine(TextPass(job.model, encoders, tables, job.shape), job.request.save_seconds)


def _blocks_to_read(job: ModelJob, done: set[int]) -> Iterator[Block]:
    """The job's blocks without those that are `done`. Raises IndexingError where a shard has none."""
    size, shard = job.request.block_passages, job.request.shard
    n_blocks = n_own = 0
    for block in blocks(job.passages(), size):
        n_blocks += 1
        if shard is None or shard.holds(block.number):
            n_own += 1
            if block.number not in done:
                yield block
    if not n_own:
        raise IndexingError(
            f"Shard {shard} has nothing to read: the text has {n_blocks} "
            f"block{'s' if n_blocks > 1 else ''} of {size} passages, so it can be divided into {n_blocks} "
            f"at most. {KEPT}"
        )


def _check_firings(job: ModelJob, state: PassState) -> None:
    if job.request.shard is None and not any(
        (counts.statistics.count > 0).any() for counts in state.dictionaries
    ):
        raise IndexingError(
            f"No feature of these dictionaries fires anywhere in this text: there is nothing to index. {KEPT}"
        )


def _report_missing_shards(job: ModelJob) -> None:
    missing, shard = job.folder.missing_shards(), job.request.shard
    assert shard is not None
    if missing:
        listed = ", ".join(f"{n}/{shard.of}" for n in missing[:12]) + (" …" if len(missing) > 12 else "")
        job.say(
            f"shard {shard} is read. Missing: {listed}. When they are read too, --resume without --shards "
            "publishes (and reads what is still missing)."
        )
    else:
        job.say(
            f"shard {shard} is read, and so are all others: the same command with --resume, without "
            "--shards, publishes."
        )
