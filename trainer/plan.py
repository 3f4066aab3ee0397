"""The plan of a run: what to train, whether it can be, what identifies its weights, and its passages."""

import importlib.metadata
import sys
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, asdict, fields
from itertools import islice, tee
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lexiscope.errors import TextError
from lexiscope.files import portable_command
from lexiscope.language_model import LanguageModel
from lexiscope.text import Sourced, Text, fingerprint, passages
from trainer.activations.buffer import cropped
from trainer.activations.harvest import Positions
from trainer.activations.passages import VALIDATION_EVERY, every_nth
from trainer.architectures import Config, check_restarts
from trainer.distributed import Ranks
from trainer.errors import RecipeError
from trainer.logs import check_logger

HELD_OUT_EVERY = 10
"""Every tenth passage of each source is held out, unless there is held-out text of its own."""
BUFFER = 500_000
"""Tokens the buffer holds unless --buffer is given."""


class Plan(NamedTuple):
    """What to train."""

    sources: Sequence[str]
    runs: Sequence[tuple[Config, Sequence[int]]]
    """each recipe with its layers; all share one pass of the model, and so read text in the same way"""
    out: Path
    """checkpoints go to out/<model>/<layer>-<recipe>"""
    tokens: int
    """distinct training tokens, at most"""
    seen: int
    """tokens each dictionary is trained on (epochs × distinct), unless its recipe counts epochs"""
    eval_tokens: int
    """held-out tokens, at least"""
    ce_tokens: int | None = None
    """of those, tokens that patched cross-entropies are measured on; all unless given"""
    width: int | None = None
    """features; the vocabulary size unless given"""
    length: int = 256
    seed: int = 0
    set_name: str | None = None
    """overrides the recipe's name in `<layer>-<set>`"""
    held_out: Sequence[str] = ()
    """text to evaluate on; every tenth passage of `sources` unless given"""
    cache: Path | None = None
    """keep the activations here, and use those that are there (trainer.activations.cache)"""
    buffer: int | None = None
    """tokens of activations held at once without a cache; the text must hold as many. BUFFER, or the text
    where it is shorter
    """
    resume: bool = False
    """go on with what an interrupted run of this plan left"""
    snapshot_every: float = 120.0
    """seconds"""
    log: str | None = None
    """'tensorboard' or 'wandb', beside train.jsonl"""
    transcoder: bool = False
    """read the MLP's input (after its norm) and reconstruct its output, instead of the residual stream"""

    @property
    def filling(self) -> int:
        """Tokens of activations held at once: all of them with a cache, or where a recipe counts epochs."""
        whole = self.cache or any(config.epochs for config, _ in self.runs)
        return self.tokens if whole else min(self.tokens, self.buffer or BUFFER)

    @property
    def positions(self) -> Positions:
        """Which positions of a passage are harvested."""
        return self.runs[0][0].positions

    def as_read(self) -> "Plan":
        """The plan with the passages' length as its recipes have it."""
        longest = min((config.length for config, _ in self.runs if config.length), default=self.length)
        return self._replace(length=min(self.length, longest))


def set_of(plan: Plan, config: Config) -> str:
    """What dictionaries of a recipe are called unless --set-name says."""
    return plan.set_name or (f"{config.name}-transcoder" if plan.transcoder else config.name)


def destination(plan: Plan, model: LanguageModel, config: Config, layer: int) -> Path:
    return plan.out / model.id / f"{layer}-{set_of(plan, config)}"


def check(model: LanguageModel, plan: Plan, ranks: Ranks) -> None:
    """Raises ModelError, RecipeError, TextError or LogError for what can be seen to be wrong without reading
    the text.
    """
    width = plan.width or model.vocab_size
    check_logger(plan.log)
    asked = [layer for _, layers in plan.runs for layer in layers]
    if plan.transcoder:
        model.check_mlps(asked)
    model.check_layers(asked)
    if len({(config.positions, config.length, config.epochs > 0) for config, _ in plan.runs}) > 1:
        raise RecipeError(
            f"{', '.join(config.name for config, _ in plan.runs)} do not read text in the same way "
            "(positions, length, epochs): train them in runs of their own."
        )
    for config, layers in plan.runs:
        if config.layers != "each" and (len(layers) < 2 or ranks.world > 1):
            raise RecipeError(
                f"{config.name} is one dictionary for several layers: give two or more with --layers, and no "
                "torchrun."
            )
    places = [destination(plan, model, config, layer) for config, layers in plan.runs for layer in layers]
    if len(set(places)) < len(places):
        raise RecipeError(
            "Several dictionaries of a layer would be written to one folder: leave --set-name out, or train "
            "the recipes in runs of their own."
        )
    for config, layers in plan.runs:
        config.check(d_in=model.d_model, d_sae=width, embedding=tuple(model.embedding.shape))
        check_restarts(config)
        if plan.transcoder:
            config.check_transcoder()
        if config.layers == "written":
            config.check_other_target("a crosscoder")
        _check_batch(plan, config, ranks)
        if config.needs_later_layers and model.n_layers - 1 in layers:
            raise RecipeError(
                f"{config.name} takes the error of the layers after its own, and none comes after layer "
                f"{model.n_layers - 1}: leave it out of --layers."
            )
    both = {Path(source).resolve() for source in plan.sources} & {
        Path(source).resolve() for source in plan.held_out
    }
    if both:
        raise TextError(f"{both.pop()} is given both to train on and to hold out.")


def _check_batch(plan: Plan, config: Config, ranks: Ranks) -> None:
    if ranks.together and config.whole_batch:
        raise RecipeError(
            f"{config.name} chooses among all tokens of a batch, which is not split over ranks: give "
            "--layers-over-ranks."
        )
    if config.batch_of == "passages":
        if ranks.together:
            raise RecipeError(
                f"{config.name} trains on whole passages, which are not split over ranks: give "
                "--layers-over-ranks."
            )
        return
    if ranks.together and config.batch % ranks.world:
        raise RecipeError(
            f"A batch of {config.batch:,} tokens does not divide by {ranks.world} ranks; take a number that "
            "divides it."
        )
    if plan.filling < config.batch:
        raise RecipeError(
            f"{plan.filling:,} tokens (--tokens, --buffer) are fewer than a batch of {config.batch:,}."
        )


def check_amount(plan: Plan, tokens: int, passages: int) -> None:
    """Raises TextError where the text, of so many training tokens and passages, is shorter than a batch or
    than the buffer, or too short to validate on.
    """
    batch = max((config.batch for config, _ in plan.runs if config.batch_of == "tokens"), default=0)
    least = max(batch, min(plan.buffer or 0, plan.tokens))
    if tokens < least:
        what = "a batch" if least == batch else "the buffer"
        raise TextError(
            f"The text gives {tokens:,} training tokens, fewer than {what} of {least:,}. Give more text."
        )
    if any(config.patience for config, _ in plan.runs) and passages < VALIDATION_EVERY:
        raise TextError(
            f"The text gives {passages} passages to train on, fewer than the {VALIDATION_EVERY} of which one "
            "validates. Give more text."
        )


def identity(model: LanguageModel, plan: Plan, config: Config, layer: int) -> dict[str, Any]:
    """What the weights follow from."""
    amounts = {name: getattr(plan, name) for name in ("tokens", "seen", "length", "seed", "filling")}
    text = {"text": fingerprint(plan.sources), "held_out": held_out_rule(plan)}
    what = {"recipe": asdict(config), "layer": layer, "width": plan.width or model.vocab_size}
    kind: dict[str, Any] = {"transcoder": True} if plan.transcoder else {}
    if config.patience and len(plan.sources) > 1:
        kind["validation"] = f"every {VALIDATION_EVERY}th passage of each source"
    return {"model": model.id, "weights": model.fingerprint} | what | text | amounts | kind


def defaults_of(config: Config) -> dict[str, Any]:
    """{field: default} of a recipe's fields that have one."""
    return {field.name: field.default for field in fields(config) if field.default is not MISSING}


def provenance(plan: Plan, identified: dict[str, Any], *, model_id: str, set_name: str) -> dict[str, Any]:
    """Where a checkpoint comes from, for its metadata; `identified` as `identity` gives it."""
    recipe, text = identified["recipe"], Text.of(plan.sources)
    return {
        "recipe": recipe["name"],
        "config": recipe,
        "layer": identified["layer"],
        "set": set_name,
        "model_id": model_id,
        "text": text.names(),
        **({"field": text.field} if text.field else {}),
        **({"chat": True} if text.chat else {}),
        "text_fingerprint": identified["text"],
        "seed": plan.seed,
        "versions": {
            name: importlib.metadata.version(name) for name in ("torch", "transformers", "transformer-lens")
        },
        "plan": identified,
        "command": portable_command([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }


def held_out_rule(plan: Plan) -> str:
    """What is held out of the text, in words; runs of another rule have other passages in them."""
    if plan.held_out:
        return "other text"
    return f"every {HELD_OUT_EVERY}th passage{' of each source' if len(plan.sources) > 1 else ''}"


def held_out_passages(model: LanguageModel, plan: Plan) -> list[np.ndarray]:
    """Passages to evaluate on, of `eval_tokens` tokens or a little more."""
    if plan.held_out:
        return list(passages(model, plan.held_out, length=plan.length, tokens=plan.eval_tokens))
    found: list[np.ndarray] = []
    left = plan.eval_tokens
    for passage in _split(model, plan, held_out=True):
        found.append(passage.ids)
        left -= len(passage.ids) - 1
        if left <= 0:
            break
    if not found:
        raise TextError(
            f"The text gives fewer than {HELD_OUT_EVERY} passages: too few to hold one out. Give more text, "
            "or --held-out."
        )
    return found


def training_passages(model: LanguageModel, plan: Plan) -> Iterator[np.ndarray]:
    """Passages to train on."""
    return cropped((passage.ids for passage in _split(model, plan, held_out=False)), plan.tokens)


def training_sources(model: LanguageModel, plan: Plan, n: int) -> Tensor:
    """[n] the source of each of the first n passages to train on."""
    found = islice(_split(model, plan, held_out=False), n)
    return torch.tensor([passage.source for passage in found])


def _split(model: LanguageModel, plan: Plan, *, held_out: bool) -> Iterator[Sourced]:
    """The passages of `sources` that are held out, or those that are trained on."""
    found = passages(model, plan.sources, length=plan.length).sourced()
    if plan.held_out:
        return found
    found, again = tee(found)
    chosen = every_nth((passage.source for passage in again), HELD_OUT_EVERY)
    return (passage for passage, out in zip(found, chosen, strict=True) if out == held_out)
