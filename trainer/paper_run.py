"""`lexiscope train --recipe paper-…`: text and a model in, one checkpoint folder a layer and paper recipe
out.

Apart from the engine of the other recipes, because the paper's training is: whole rows, every position,
epochs that end by a validation loss. Rows are passages of at most 128 tokens, BOS first, which is kept as the
paper keeps its first position. Every sixth training row validates (the paper's 10,000 beside 50,000); the
held-out passages are the plan's, and so is their evaluation.
"""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from lexiscope.checkpoint import LOG, new_checkpoint, refuse_existing, save_weights
from lexiscope.errors import TextError
from lexiscope.language_model import LanguageModel, hook_name
from lexiscope.text import batches
from trainer.distributed import ALONE, Ranks
from trainer.evaluation import Candidate, measure
from trainer.harvest import BYTES, HarvestError, map_activations, refuse_full_disk
from trainer.paper import PaperLine, PaperRecipe, PaperTrained, Rows, train_paper
from trainer.plan import Plan, destination, held_out_passages, identity, provenance, training_passages
from trainer.recipes import RecipeError
from trainer.start import centring

VALIDATES = 6
"""Every so many training rows one validates."""


class _Task(NamedTuple):
    recipe: PaperRecipe
    layer: int
    path: Path


def train_paper_recipes(
    model: LanguageModel, plan: Plan, *, console: Console, ranks: Ranks = ALONE
) -> list[Path]:
    """Train and evaluate every paper recipe of the plan; returns the checkpoint folders, in its order.

    Raises before time is spent: a layer the model lacks, a recipe that does not fit, a folder that holds a
    run, a text too short. `plan.seen` has no part: epochs and patience say when training ends. Nothing can be
    resumed.
    """
    recipes = [recipe for recipe, _ in plan.runs if isinstance(recipe, PaperRecipe)]
    if len(recipes) < len(plan.runs):
        raise RecipeError(
            "The paper's recipes train apart from the others: ask for them in a run of their own."
        )
    for what, asked in (
        ("--resume", plan.resume),
        ("--cache", plan.cache),
        ("--log", plan.log),
        ("torchrun", ranks.world > 1),
    ):
        if asked:
            raise RecipeError(f"The paper's recipes know no {what}: leave it out.")
    width, length = plan.width or model.vocab_size, min(recipe.length for recipe in recipes)
    plan = plan._replace(length=min(plan.length, length))
    tasks = [
        _Task(recipe, layer, destination(plan, model, recipe, layer))
        for recipe in recipes
        for layer in _layers(plan, recipe)
    ]
    model.check_layers([task.layer for task in tasks])
    for task in tasks:
        refuse_existing(task.path)
    held_out = held_out_passages(model, plan)
    passages = list(training_passages(model, plan))
    if len(passages) < VALIDATES:
        raise TextError(
            f"The text gives {len(passages)} rows to train on, fewer than the {VALIDATES} of which one validates."
        )
    for layer in sorted({task.layer for task in tasks}):
        with tempfile.TemporaryDirectory(prefix="paper-rows-") as folder:
            training = read_rows(
                model,
                [p for i, p in enumerate(passages, 1) if i % VALIDATES],
                layer,
                Path(folder, "training"),
            )
            validation = read_rows(
                model, passages[VALIDATES - 1 :: VALIDATES], layer, Path(folder, "validation")
            )
            for task in tasks:
                if task.layer == layer:
                    done = _train(model, plan, task, training, validation, width, console)
                    norm = centring(training.activations).mean_norm
                    _write(model, plan, task, done, held_out, n_distinct=len(training.tokens), mean_norm=norm)
    return [task.path for task in tasks]


def _layers(plan: Plan, recipe: PaperRecipe) -> Sequence[int]:
    return next(layers for asked, layers in plan.runs if asked is recipe)


def read_rows(model: LanguageModel, passages: Sequence[np.ndarray], layer: int, file: Path) -> Rows:
    """The residual stream of every position but padding, kept in `file` (bf16).

    Raises HarvestError for NaN or Inf, or a disk too full.
    """
    total = sum(len(passage) for passage in passages)
    refuse_full_disk(file.parent, total * model.d_model * BYTES)
    tokens: list[Tensor] = []
    lengths: list[Tensor] = []
    with file.open("wb") as sink:
        for batch in batches(passages):
            held = torch.arange(batch.tokens.shape[1]) < batch.lengths[:, None]
            x = model.read(batch.tokens.to(model.device), [layer])[layer][held.to(model.device)]
            if not torch.isfinite(x).all():
                raise HarvestError(f"The activations of {model.id} at layer {layer} hold NaN or Inf.")
            x.bfloat16().view(torch.int16).cpu().numpy().tofile(sink)
            tokens.append(batch.tokens[held])
            lengths.append(batch.lengths)
    ends = torch.cat(lengths).cumsum(0)
    return Rows(
        map_activations(file, total),
        torch.cat(tokens),
        torch.cat([torch.zeros(1, dtype=torch.long), ends[:-1]]),
    )


def _train(
    model: LanguageModel,
    plan: Plan,
    task: _Task,
    training: Rows,
    validation: Rows,
    width: int,
    console: Console,
) -> PaperTrained:
    def report(line: PaperLine) -> None:
        validated = "" if line.validation_loss is None else f" validation {line.validation_loss:.4f}"
        rate = f"{line.tokens_per_second:,.0f} tok/s"
        console.print(
            f"layer {task.layer} {task.path.name} epoch {line.epoch} step {line.step} {rate} loss {line.loss:.4f}{validated}"
        )

    return train_paper(
        task.recipe,
        training,
        validation,
        embedding=model.embedding,
        d_sae=width,
        seed=plan.seed,
        device=model.device,
        report=report,
    )


def _write(
    model: LanguageModel,
    plan: Plan,
    task: _Task,
    done: PaperTrained,
    held_out: list[np.ndarray],
    *,
    n_distinct: int,
    mean_norm: float,
) -> None:
    (measured,) = measure(
        model,
        [Candidate(task.layer, done.dictionary, done.fit, plan.seed)],
        held_out,
        ce_tokens=plan.ce_tokens,
    )
    details: dict[str, Any] = {
        **provenance(plan, identity(model, plan, task.recipe, task.layer), model_id=model.id),
        "anchors": "token embedding, raw",
        "scale": 1.0,
        "mean_norm": mean_norm,
        "tokens_distinct": n_distinct,
        "tokens_seen": done.log[-1].tokens,
        "seconds": done.log[-1].seconds,
    }
    with new_checkpoint(task.path) as folder:
        save_weights(
            folder,
            done.dictionary,
            fit=done.fit,
            model=model.path,
            hook=hook_name(task.layer),
            context=plan.length,
            details=details,
        )
        measured.save(folder)
        (folder / LOG).write_text("".join(json.dumps(line._asdict()) + "\n" for line in done.log))
