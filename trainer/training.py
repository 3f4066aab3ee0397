"""`lexiscope train`: text and a model in, one checkpoint folder a layer out.

Harvests all asked layers in one pass of the model, fits one dictionary a layer, evaluates them together on held-out passages,
writes the checkpoints. Nothing is written where a run already stands.
"""

import importlib.metadata
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from lexiscope.checkpoint import LOG, METRICS, new_checkpoint, refuse_existing, save_weights, write_json
from lexiscope.errors import TextError
from lexiscope.language_model import LanguageModel, hook_name
from lexiscope.text import fingerprint, passages
from trainer.evaluation import Candidate, evaluate
from trainer.fitting import Fit
from trainer.harvest import Harvest, harvest
from trainer.loop import LogLine, Trained, run
from trainer.recipes import Recipe, RecipeError

HELD_OUT_EVERY = 10
"""Every tenth passage is held out until enough are."""


class Plan(NamedTuple):
    """What to train."""

    sources: Sequence[str]
    runs: Sequence[tuple[Recipe, Sequence[int]]]
    """each recipe with its layers; all share one pass of the model"""
    out: Path
    """checkpoints go to out/<model>/<layer>-<recipe>"""
    tokens: int
    """distinct training tokens to harvest, at most"""
    seen: int
    """tokens each dictionary is trained on (epochs × harvested)"""
    eval_tokens: int
    width: int | None = None
    """features; the vocabulary size unless given"""
    length: int = 256
    seed: int = 0
    set_name: str | None = None
    """overrides the recipe's name in `<layer>-<set>`"""


def destination(plan: Plan, model: LanguageModel, recipe: Recipe, layer: int) -> Path:
    return plan.out / model.id / f"{layer}-{plan.set_name or recipe.name}"


def train(model: LanguageModel, plan: Plan, *, console: Console) -> list[Path]:
    """Train every dictionary of the plan; returns the checkpoint folders, in the plan's order.

    Raises before any time is spent: a layer the model lacks, k or width out of range, a folder that already holds a run.
    """
    width = plan.width or model.vocab_size
    layers = sorted({layer for _, asked in plan.runs for layer in asked})
    model.check_layers(layers)
    for recipe, asked in plan.runs:
        if not 0 < recipe.k <= width:
            raise RecipeError(f"k is {recipe.k}: it must be between 1 and the dictionary's width, {width}.")
        for layer in asked:
            refuse_existing(destination(plan, model, recipe, layer))
    held_out: list[np.ndarray] = []
    paths: list[Path] = []
    with _progress(console) as progress:
        task = progress.add_task(f"reading {model.id}", total=plan.tokens, rate="", loss="", live="")
        stream = _training_stream(model, plan, held_out)
        with harvest(model, stream, layers=layers, tokens=plan.tokens, advance=lambda n: progress.advance(task, n)) as found:
            progress.update(task, total=len(found.tokens), completed=len(found.tokens))
            if not held_out:
                raise TextError(f"The text gives fewer than {HELD_OUT_EVERY} passages: too few to hold one out. Give more text.")
            trained = [
                (recipe, layer, _fit(model, found, recipe, layer, width, plan, progress)) for recipe, asked in plan.runs for layer in asked
            ]
        results = _evaluate(model, trained, held_out, plan, progress)
        for (recipe, layer, done), measured in zip(trained, results, strict=True):
            path = destination(plan, model, recipe, layer)
            _write(path, model, plan, recipe, layer, done, measured, n_distinct=len(found.tokens))
            paths.append(path)
    return paths


def _training_stream(model: LanguageModel, plan: Plan, held_out: list[np.ndarray]) -> Iterator[np.ndarray]:
    """Passages to train on; every HELD_OUT_EVERY-th goes to `held_out` instead until that holds `eval_tokens`."""
    short = plan.eval_tokens
    for index, passage in enumerate(passages(model, plan.sources, length=plan.length)):
        if index % HELD_OUT_EVERY == HELD_OUT_EVERY - 1 and short > 0:
            held_out.append(passage)
            short -= len(passage) - 1
        else:
            yield passage


def _fit(model: LanguageModel, found: Harvest, recipe: Recipe, layer: int, width: int, plan: Plan, progress: Progress) -> Trained:
    steps = max(1, plan.seen // recipe.batch)
    task = progress.add_task(f"layer {layer} {recipe.name}", total=steps, rate="", loss="", live="")

    def report(line: LogLine) -> None:
        shown = {"rate": f"{line.tokens_per_second:,.0f} tok/s", "loss": f"loss {line.loss:.4f}", "live": f"live {line.live:.0%}"}
        progress.update(task, completed=line.step, **shown)
        if not progress.console.is_terminal and line.step * 10 // steps > (line.step - 10) * 10 // steps:
            progress.console.print(f"layer {layer} {recipe.name} step {line.step}/{steps}", *shown.values(), f"{line.seconds:.0f} s")

    fit = Fit(recipe, found.activations[layer], found.tokens, embedding=model.embedding, d_sae=width, seed=plan.seed)
    return run(fit, steps=steps, report=report)


def _evaluate(
    model: LanguageModel, trained: list[tuple[Recipe, int, Trained]], held_out: list[np.ndarray], plan: Plan, progress: Progress
) -> list[dict[str, Any]]:
    task = progress.add_task("evaluating", total=sum(len(p) - 1 for p in held_out), rate="", loss="", live="")
    candidates = [Candidate(layer, done.fitted.dictionary, done.fitted.fit, plan.seed) for _, layer, done in trained]
    return evaluate(model, candidates, held_out, advance=lambda n: progress.advance(task, n))


def _write(
    path: Path, model: LanguageModel, plan: Plan, recipe: Recipe, layer: int, trained: Trained, measured: dict[str, Any], *, n_distinct: int
) -> None:
    fitted, log = trained
    details = {
        "recipe": recipe.name,
        "config": asdict(recipe),
        "layer": layer,
        "set": plan.set_name or recipe.name,
        "model_id": model.id,
        "anchors": "class mean by current token, shrunk to the transported embedding",
        "scale": fitted.centring.scale,
        "mean_norm": fitted.centring.mean_norm,
        "text": [Path(source).name for source in plan.sources],
        "text_fingerprint": fingerprint(plan.sources),
        "seed": plan.seed,
        "tokens_distinct": n_distinct,
        "tokens_seen": log[-1].tokens,
        "seconds": log[-1].seconds,
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "transformers", "transformer-lens")},
    }
    with new_checkpoint(path) as folder:
        save_weights(
            folder, fitted.dictionary, fit=fitted.fit, model=model.path, hook=hook_name(layer), context=plan.length, details=details
        )
        write_json(folder / METRICS, measured)
        (folder / LOG).write_text("".join(json.dumps(line._asdict()) + "\n" for line in log))


def _progress(console: Console) -> Progress:
    fields = [TextColumn(f"{{task.fields[{name}]}}") for name in ("rate", "loss", "live")]
    done = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
    return Progress(*done, *fields, TimeRemainingColumn(), console=console)
