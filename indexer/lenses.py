"""Jacobian lenses of a model's layers, fitted once a text and kept (`Settings.lenses`)."""

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from indexer.job_files import fingerprint
from lexiscope.checkpoint import write_tensors
from lexiscope.files import lock
from lexiscope.language_model import LanguageModel
from lexiscope.language_model.jacobian import SKIPPED

LENGTH = 128
"""Tokens of a prompt, at most, as the lens's authors have it."""


class Lenses(NamedTuple):
    """Of one model and text."""

    by_layer: dict[int, Tensor]
    """J [d_model, d_model]"""
    path: str
    """where they are kept; empty where none were fitted"""


NO_LENSES = Lenses({}, "")


def lens_prompts(passages: Iterable[np.ndarray], n: int) -> list[Tensor]:
    """Beginnings of the first n passages that are long enough."""
    usable = (torch.as_tensor(passage[:LENGTH]).long() for passage in passages if len(passage) > SKIPPED + 1)
    return list(islice(usable, n))


def jacobian_lenses(
    model: LanguageModel,
    layers: Sequence[int],
    passages: Iterable[np.ndarray],
    *,
    prompts: int,
    folder: Path,
    advance: Callable[[int], None] = lambda n: None,
) -> Lenses:
    """The lenses of `layers`, from `folder` or fitted on the first `prompts` passages that are long enough
    and kept there; the last layer's is 1. `advance` is told of each prompt done.

    A file is for the very tokens that its lenses were fitted on. Raises TextError where no passage is long
    enough.
    """
    fitted_on = lens_prompts(passages, prompts)
    tokens = fingerprint([prompt.tolist() for prompt in fitted_on])
    path = folder / f"{model.id}-{model.identity}-{tokens}-{prompts}.safetensors"
    below = sorted({layer for layer in layers if layer < model.n_layers - 1})
    kept = _kept(path)
    if not set(below) <= set(kept):
        fitted = model.jacobians(fitted_on, below, fast=True, advance=advance)
        folder.mkdir(parents=True, exist_ok=True)
        with lock(path.with_suffix(".lock"), wait=True):
            kept = _kept(path) | fitted  # another job may have written other layers
            write_tensors(path, {str(layer): jacobian for layer, jacobian in kept.items()})
    last = {model.n_layers - 1: torch.eye(model.d_model)}
    return Lenses({layer: (kept | last)[layer] for layer in set(layers)}, str(path.resolve()))


def _kept(path: Path) -> dict[int, Tensor]:
    """What the file holds; nothing where it is missing or damaged."""
    try:
        return {int(layer): jacobian for layer, jacobian in load_file(path).items()}
    except (OSError, SafetensorError, ValueError):
        return {}
