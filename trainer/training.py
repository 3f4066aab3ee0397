"""`lexiscope train`: text and a model in, one checkpoint folder a layer and recipe out.

The fillings of `trainer.sources` feed all dictionaries (`trainer.job`); then all are evaluated together on
held-out passages. Nothing is written where a run already stands.
"""

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from lexiscope.checkpoint import load_checkpoint
from lexiscope.errors import TextError
from lexiscope.language_model import LanguageModel
from lexiscope.text import fingerprint
from trainer.cache import Origin, place, refuse_foreign
from trainer.distributed import ALONE, Ranks
from trainer.evaluation import Candidate, measure
from trainer.job import Job
from trainer.plan import Plan, check, held_out_passages, held_out_rule, training_passages
from trainer.snapshot import TRAINED, refuse_full_disk
from trainer.sources import Filling, from_cache, from_model


def train(model: LanguageModel, plan: Plan, *, console: Console, ranks: Ranks = ALONE) -> list[Path]:
    """Train every dictionary of the plan; returns the checkpoint folders, in the plan's order.

    Raises before any time is spent: a layer the model lacks, k or width out of range, a text too short, a
    folder that already holds a run, a cache of other activations, a logger that is not installed, a disk too
    full. With ranks that split the layers, each returns what it trained.
    """
    check(model, plan, ranks)
    jobs = ranks.share(
        [Job(model, plan, recipe, layer, ranks) for recipe, layers in plan.runs for layer in layers]
    )
    if ranks.writes:
        for job in jobs:
            job.unfinished.check(resume=plan.resume)
    held_out = held_out_passages(model, plan)
    fillings = _fillings(model, plan)
    ranks.wait()
    todo = [job for job in jobs if not (plan.resume and job.unfinished.finished)]
    if ranks.writes:
        for job in set(jobs) - set(todo):
            job.unfinished.remove()  # killed between its last two steps
    for job in todo:
        job.done = job.unfinished.trained is not None
    ranks.wait()
    try:
        with _progress(console if ranks.writes else Console(quiet=True)) as progress:
            _claim(model, todo, ranks)
            _fit_all(model, plan, [job for job in todo if not job.done], fillings, progress)
            if ranks.writes and todo:
                _evaluate(model, todo, held_out, plan, progress)
            ranks.wait()
    except BaseException:
        if ranks.writes:
            for job in todo:
                job.unfinished.leave()
        raise
    return [job.path for job in jobs]


def _fillings(model: LanguageModel, plan: Plan) -> Iterator[Filling]:
    """The plan's fillings. Raises TextError where the text is shorter than a batch, or than the buffer that
    was asked for.
    """
    if plan.cache:
        text = fingerprint(plan.sources)
        origin = Origin(model.id, model.fingerprint, text, plan.length, plan.tokens, held_out_rule(plan))
        refuse_foreign(place(plan.cache, origin), origin)
        fillings = from_cache(model, list(training_passages(model, plan)), origin=origin, folder=plan.cache)
    else:
        fillings = from_model(model, lambda: training_passages(model, plan), size=plan.filling)
    first = next(fillings)
    batch = max(recipe.batch for recipe, _ in plan.runs)
    least = max(batch, min(plan.buffer or 0, plan.tokens))
    if first.tokens < least:
        what = "a batch" if least == batch else "the buffer"
        raise TextError(
            f"The text gives {first.tokens:,} training tokens, fewer than {what} of {least:,}. Give more text."
        )
    return chain([first], fillings)


def _claim(model: LanguageModel, jobs: list[Job], ranks: Ranks) -> None:
    """Hold the jobs' folders, where the disk has room for them."""
    if ranks.writes and jobs:
        jobs[0].path.parent.mkdir(parents=True, exist_ok=True)
        weights = sum(2 * job.width * model.d_model for job in jobs if not job.done)
        refuse_full_disk(
            jobs[0].path.parent, weights * 4 * 4
        )  # the checkpoint, and a snapshot of weights and two moments
        for job in jobs:
            job.unfinished.open()
    ranks.wait()


def _fit_all(
    model: LanguageModel, plan: Plan, jobs: list[Job], fillings: Iterator[Filling], progress: Progress
) -> None:
    """Take every job through the fillings. Where one filling holds all, jobs end one after another and memory
    holds one `Fit`.
    """
    layers = {layer for _, asked in plan.runs for layer in asked}
    reading = progress.add_task(f"reading {model.id}", rate="", loss="", live="") if jobs else None
    while jobs:
        filling = next(fillings)
        needing = [job for job in jobs if job.needs(filling)]
        for job in jobs:
            if job not in needing:
                job.over(None, filling, progress)
        if needing and reading is not None:
            progress.reset(reading, total=filling.tokens)
            asked = layers if plan.cache else {job.layer for job in needing}
            with filling.read(sorted(asked), lambda n: progress.advance(reading, n)) as found:
                progress.update(reading, completed=filling.tokens)
                for job in needing:
                    job.over(found, filling, progress)
        jobs = [job for job in jobs if not job.done]


def _evaluate(
    model: LanguageModel, jobs: list[Job], held_out: list[np.ndarray], plan: Plan, progress: Progress
) -> None:
    """Evaluate what lies on disk, and let each become its destination."""
    task = progress.add_task("evaluating", total=sum(len(p) - 1 for p in held_out), rate="", loss="", live="")
    candidates = []
    for job in jobs:
        found = load_checkpoint(job.unfinished.folder / TRAINED)
        assert found.fit is not None  # _write gave it one
        candidates.append(Candidate(job.layer, found.dictionary, found.fit, plan.seed))
    results = measure(
        model, candidates, held_out, ce_tokens=plan.ce_tokens, advance=lambda n: progress.advance(task, n)
    )
    for job, measured in zip(jobs, results, strict=True):
        job.unfinished.publish(measured)


def _progress(console: Console) -> Progress:
    fields = [TextColumn(f"{{task.fields[{name}]}}") for name in ("rate", "loss", "live")]
    done = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
    return Progress(*done, *fields, TimeRemainingColumn(), console=console)
