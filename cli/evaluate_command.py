"""`lexiscope eval`: checkpoints and a text in, held-out figures out, with a warning where they contradict the
checkpoint.

A dictionary read at the wrong hook point, scale or activation function still gives figures. So the model,
hook point and reconstruction that a checkpoint records are compared with those of the evaluation.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from lexiscope.checkpoint import AnchorFit, Checkpoint, load_checkpoint, write_json
from lexiscope.errors import CheckpointError, LexiscopeError
from lexiscope.language_model import LanguageModel, load_language_model
from lexiscope.measures import RUN, Measure, as_text, placed
from lexiscope.text import fingerprint, passages
from trainer import (
    Candidate,
    Measured,
    Plan,
    check_candidates,
    held_out_passages,
    held_out_rule,
    measure,
)

TOKENS = 100_000
"""Default number of held-out tokens."""
FAR = 0.1
"""A difference of FVE from the recorded one that another text does not explain."""
MEAN_PASSAGES = 64
"""Passages behind the mean of a layer, for a dictionary without one."""


class EvaluationRequest(NamedTuple):
    """Text and amounts of an evaluation; `None` is what the run itself records, or else a default."""

    text: Sequence[str]
    tokens: int | None = None
    ce_tokens: int | None = None
    length: int | None = None
    model: str | None = None
    model_id: str | None = None
    layer: int | None = None


class Evaluated(NamedTuple):
    checkpoint: Checkpoint
    measured: Measured
    warnings: list[str]

    @property
    def name(self) -> str:
        return f"{self.checkpoint.path.resolve().parent.name}/{self.checkpoint.path.resolve().name}"


def evaluate_runs(runs: Sequence[Path], request: EvaluationRequest, *, console: Console) -> list[Evaluated]:
    """Evaluate checkpoints; those of one model and text share its passes. Raises LexiscopeError for one
    that cannot be evaluated.
    """
    checkpoints = [load_checkpoint(run, layer=request.layer) for run in runs]
    for checkpoint in checkpoints:
        if checkpoint.mlp is None:
            _ = checkpoint.layer  # refused before the model is loaded
    text = fingerprint(request.text)
    groups: dict[tuple[Any, ...], list[Checkpoint]] = {}
    for checkpoint in checkpoints:
        groups.setdefault((_model_of(checkpoint, request), *_amounts(checkpoint, request, text)), []).append(
            checkpoint
        )
    models: dict[tuple[str, str | None], LanguageModel] = {}
    evaluated: dict[Path, Evaluated] = {}
    for (source, own_split, length, tokens, ce_tokens), group in groups.items():
        if source not in models:
            models[source] = load_language_model(source[0], model_id=source[1])
        model = models[source]
        chosen = _passages(model, request.text, own_split=own_split, length=length, tokens=tokens)
        console.print(passages(model, request.text, length=length).report.sentence(), soft_wrap=True)
        candidates = [_candidate(model, checkpoint, chosen) for checkpoint in group]
        with Progress(console=console, transient=True) as progress:
            task = progress.add_task(f"evaluating on {model.id}", total=sum(len(p) - 1 for p in chosen))
            results = measure(
                model, candidates, chosen, ce_tokens=ce_tokens, advance=_advance(progress, task)
            )
        for checkpoint, measured in zip(group, results, strict=True):
            evaluated[checkpoint.path] = Evaluated(
                checkpoint, measured, differences(checkpoint, model, measured.metrics)
            )
    return [evaluated[checkpoint.path] for checkpoint in checkpoints]


def _advance(progress: Progress, task: Any) -> Callable[[int], None]:
    return lambda n: progress.advance(task, n)


def differences(checkpoint: Checkpoint, model: LanguageModel, measured: dict[str, Any]) -> list[str]:
    """What contradicts the checkpoint's own records, in words."""
    found = []
    recorded_id, weights = (
        checkpoint.details.get("model_id"),
        checkpoint.details.get("plan", {}).get("weights"),
    )
    if recorded_id and recorded_id != model.id:
        found.append(f"it was trained on {recorded_id}, this is {model.id}")
    elif weights and weights != model.fingerprint:
        found.append(
            f"it was trained on other weights of {model.id} ({weights}, these are {model.fingerprint})"
        )
    before = checkpoint.metrics.get("fve")
    if before is not None and abs(before - measured["fve"]) > FAR:
        found.append(
            f"FVE is {measured['fve']:.3f}, but {before:.3f} is recorded: another hook point, scale or "
            "model, or a very different text"
        )
    return found


def _model_of(checkpoint: Checkpoint, request: EvaluationRequest) -> tuple[str, str | None]:
    path = request.model or checkpoint.model
    if not path:
        raise CheckpointError(
            f"{checkpoint.path} does not record which language model it reads; give it with --model."
        )
    given = request.model_id if request.model else request.model_id or checkpoint.details.get("model_id")
    return str(path), given


def _amounts(
    checkpoint: Checkpoint, request: EvaluationRequest, text: str
) -> tuple[bool, int, int, int | None]:
    """(the run's own held-out passages of its training text?, passage length, tokens, tokens scored).

    Raises CheckpointError for a run on this text that held out other passages than such a run does now.
    """
    details, before = checkpoint.details, checkpoint.metrics
    held_out = details.get("plan", {}).get("held_out")
    own_split = details.get("text_fingerprint") == text and held_out != "other text"
    if own_split and held_out not in (None, rule := held_out_rule(_plan(request.text))):
        raise CheckpointError(
            f"{checkpoint.path} was trained on this text but for {held_out}; evaluation would take {rule}, "
            "which are not the same passages. Give a text of its own with --text."
        )
    context = checkpoint.metadata.get("context_size") or 256
    tokens = request.tokens or (own_split and before.get("tokens")) or TOKENS
    ce_tokens = request.ce_tokens
    if ce_tokens is None and own_split and request.tokens is None:
        ce_tokens = before.get("ce_tokens")
    return own_split, request.length or int(context), int(tokens), ce_tokens


def _passages(
    model: LanguageModel, text: Sequence[str], *, own_split: bool, length: int, tokens: int
) -> list[np.ndarray]:
    if own_split:  # the text it was trained on: only its held-out passages may be evaluated
        return held_out_passages(model, _plan(text)._replace(eval_tokens=tokens, length=length))
    return list(passages(model, text, length=length, tokens=tokens))


def _plan(text: Sequence[str]) -> Plan:
    """Of a run on the text, without held-out text of its own."""
    return Plan(text, [], Path(), tokens=0, seen=0, eval_tokens=0)


def _candidate(model: LanguageModel, checkpoint: Checkpoint, chosen: Sequence[np.ndarray]) -> Candidate:
    dictionary, mlp = checkpoint.dictionary, checkpoint.mlp
    layer = checkpoint.layer if mlp is None else mlp
    fit = checkpoint.fit or AnchorFit(
        model.embedding, torch.ones(model.vocab_size), torch.zeros(model.d_model), torch.empty(0)
    )
    seed = int(checkpoint.details.get("seed", 0))
    candidate = Candidate(layer, dictionary, fit, seed, transcoder=mlp is not None)
    try:
        check_candidates(model, [candidate])
    except LexiscopeError as error:
        raise CheckpointError(f"{checkpoint.path}: {error}") from error
    return candidate if checkpoint.fit else candidate._replace(fit=_foreign_fit(model, candidate, chosen))


def _foreign_fit(model: LanguageModel, candidate: Candidate, chosen: Sequence[np.ndarray]) -> AnchorFit:
    """For a dictionary without anchors: raw W_E, and the text's own counts and mean."""
    if model.embedding.shape[1] != model.d_model:
        raise CheckpointError(
            f"This dictionary has no anchors, and {model.id}'s W_E, {model.embedding.shape[1]} wide, cannot "
            f"stand for them at a width of {model.d_model}: `lexiscope name` fits anchors."
        )
    few = [torch.from_numpy(p).long()[None].to(model.device) for p in chosen[:MEAN_PASSAGES]]
    point, d_sae = candidate.writes, candidate.dictionary.d_sae
    mean = torch.cat([model.read(tokens, [point])[point][0, 1:] for tokens in few]).mean(0)
    counts = torch.bincount(
        torch.from_numpy(np.concatenate([p[1:] for p in chosen])).long(), minlength=model.vocab_size
    )
    return AnchorFit(model.embedding, counts.float(), mean, torch.full((d_sae,), -1))


def names_of(runs: Sequence[Evaluated]) -> list[str]:
    """What each run is called: the path that was given where another run has the same name."""
    times = Counter(each.name for each in runs)
    return [each.name if times[each.name] == 1 else str(each.checkpoint.path) for each in runs]


def table(runs: Sequence[Evaluated]) -> Table:
    """A column a run, a row a measure; the interval, or what chance gives, in brackets."""
    shown = Table("", *names_of(runs))
    for row in placed(RUN, "eval"):
        shown.add_row(row.label, *(_cell(row, each.measured.metrics) for each in runs))
    return shown


def _cell(row: Measure, metrics: dict[str, Any]) -> str:
    value = as_text(row, metrics[row.name])
    if row.interval:
        low, high = (as_text(row, end) for end in metrics[row.interval])
        return f"{value} ({low} to {high})"
    if row.chance:
        return f"{value} ({as_text(row, metrics[row.chance])})"
    return value


def write(runs: Sequence[Evaluated], *, out: Path | None, into_runs: bool) -> None:
    """Write all metrics to one JSON file, or each run's to its folder. Raises CheckpointError where that
    fails.
    """
    try:
        if out:
            write_json(
                out, {name: each.measured.metrics for name, each in zip(names_of(runs), runs, strict=True)}
            )
        for each in runs if into_runs else ():
            each.measured.save(each.checkpoint.path)
    except OSError as error:
        raise CheckpointError(
            f"The figures could not be written to {error.filename or out}: {error.strerror or error}."
        ) from error
