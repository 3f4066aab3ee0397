"""`lexiscope train`: text and a model in, one checkpoint folder a layer and recipe out.

The fillings of `trainer.activations.buffer` feed all dictionaries (`trainer.dictionary_run`); then all are
evaluated together on held-out passages. Nothing is written where a run already stands.
"""

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from lexiscope.checkpoint import load_checkpoint
from lexiscope.language_model import LanguageModel, hook_name
from lexiscope.precision import precision
from lexiscope.progress import watched
from lexiscope.text import fingerprint
from trainer.activations.buffer import Filling, from_cache, from_model
from trainer.activations.cache import Origin, place, refuse_foreign
from trainer.activations.harvest import points
from trainer.architectures import Config
from trainer.dictionary_run import DictionaryRun
from trainer.distributed import ALONE, Ranks
from trainer.evaluation import Candidate, measure
from trainer.plan import (
    Plan,
    check,
    check_amount,
    held_out_passages,
    held_out_rule,
    training_passages,
)
from trainer.snapshot import TRAINED, refuse_full_disk


def train(model: LanguageModel, plan: Plan, *, console: Console, ranks: Ranks = ALONE) -> list[Path]:
    """Train every dictionary of the plan; returns the checkpoint folders, in the plan's order.

    Raises before the model runs: a layer the model lacks, a config that does not fit, a text too short, a
    folder that already holds a run, a cache of other activations, a logger that is not installed, a disk too
    full. Raises TrainingDiverged where a loss is not finite. With ranks that split the layers, each returns
    what it trained.
    """
    plan = plan.as_read()
    check(model, plan, ranks)
    runs = ranks.share(
        [run for config, layers in plan.runs for run in _runs(model, plan, config, layers, ranks)]
    )
    if ranks.writes:
        for run in runs:
            run.unfinished.check(resume=plan.resume)
    held_out = held_out_passages(model, plan)
    fillings = _fillings(model, plan)
    ranks.wait()
    todo = [run for run in runs if not (plan.resume and run.unfinished.finished)]
    if ranks.writes:
        for run in set(runs) - set(todo):
            run.unfinished.remove()  # killed between its last two steps
    for run in todo:
        run.done = run.unfinished.trained is not None
    ranks.wait()
    try:
        with watched(_progress(console if ranks.writes else Console(quiet=True))) as progress:
            _claim(model, todo, ranks)
            _train_all(model, plan, [run for run in todo if not run.done], fillings, progress)
            if ranks.writes and todo:
                _evaluate(model, todo, held_out, plan, progress)
            ranks.wait()
    except BaseException:
        if ranks.writes:
            for run in todo:
                run.unfinished.leave()
        raise
    return [run.path for run in runs]


def _runs(
    model: LanguageModel, plan: Plan, config: Config, layers: Sequence[int], ranks: Ranks
) -> list[DictionaryRun]:
    """A run for each layer that a dictionary is written for."""
    if config.layers == "each":
        return [DictionaryRun(model, plan, config, layer, ranks) for layer in layers]
    written = layers if config.layers == "shared" else layers[:1]
    runs = [DictionaryRun(model, plan, config, layer, ranks, group=layers) for layer in written]
    runs[0].followers = runs[1:]
    return runs


def _fillings(model: LanguageModel, plan: Plan) -> Iterator[Filling]:
    """The plan's fillings. Raises TextError where the text is too short."""
    if plan.cache:
        text, rule = fingerprint(plan.sources), held_out_rule(plan)
        origin = Origin(
            model.id,
            model.fingerprint,
            text,
            plan.length,
            plan.tokens,
            rule,
            plan.positions,
            precision(model.device),
        )
        refuse_foreign(place(plan.cache, origin), origin)
        fillings = from_cache(model, list(training_passages(model, plan)), origin=origin, folder=plan.cache)
    else:
        fillings = from_model(
            model, lambda: training_passages(model, plan), size=plan.filling, positions=plan.positions
        )
    first = next(fillings)
    check_amount(plan, first.tokens, first.passages)
    return chain([first], fillings)


def _claim(model: LanguageModel, runs: list[DictionaryRun], ranks: Ranks) -> None:
    """Hold the runs' folders, where the disk has room for them."""
    if ranks.writes and runs:
        runs[0].path.parent.mkdir(parents=True, exist_ok=True)
        weights = sum(2 * run.width * model.d_model for run in runs if not run.done)
        refuse_full_disk(
            runs[0].path.parent, weights * 4 * 4
        )  # the checkpoint, and a snapshot of weights and two moments
        for run in runs:
            run.unfinished.open()
    ranks.wait()


def _train_all(
    model: LanguageModel,
    plan: Plan,
    runs: list[DictionaryRun],
    fillings: Iterator[Filling],
    progress: Progress,
) -> None:
    """Take every run through the fillings. Where one filling holds all, runs end one after another and memory
    holds one dictionary in training.
    """
    all_points = {
        point
        for _, asked in plan.runs
        for layer in asked
        for point in points(layer, transcoder=plan.transcoder)
    }
    reading = progress.add_task(f"reading {model.id}", rate="", loss="", live="") if runs else None
    while runs:
        filling = next(fillings)
        needing = [run for run in runs if run.needs(filling)]
        for run in runs:
            if run not in needing:
                run.over(None, filling, progress)
        if needing and reading is not None:
            progress.reset(reading, total=filling.tokens)
            needed = {point for run in needing for point in run.points}
            wanted = sorted(all_points if plan.cache else needed, key=hook_name)
            with filling.read(wanted, lambda n: progress.advance(reading, n)) as harvest:
                progress.update(reading, completed=filling.tokens)
                for run in needing:
                    run.over(harvest, filling, progress)
        runs = [run for run in runs if not run.done]


def _evaluate(
    model: LanguageModel,
    runs: list[DictionaryRun],
    held_out: list[np.ndarray],
    plan: Plan,
    progress: Progress,
) -> None:
    """Evaluate what is on disk, and let each become its destination."""
    task = progress.add_task("evaluating", total=sum(len(p) - 1 for p in held_out), rate="", loss="", live="")
    candidates = []
    for run in runs:
        found = load_checkpoint(run.unfinished.folder / TRAINED)
        assert found.fit is not None  # every trained dictionary is written with one
        candidates.append(Candidate(run.layer, found.dictionary, found.fit, plan.seed, plan.transcoder))
    results = measure(
        model, candidates, held_out, ce_tokens=plan.ce_tokens, advance=lambda n: progress.advance(task, n)
    )
    for run, measured in zip(runs, results, strict=True):
        run.unfinished.publish(measured)


def _progress(console: Console) -> Progress:
    fields = [TextColumn(f"{{task.fields[{name}]}}") for name in ("rate", "loss", "live")]
    done = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
    return Progress(*done, *fields, TimeRemainingColumn(), console=console)
