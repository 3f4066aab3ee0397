"""Jacobian lenses of a model's layers, fitted once a text and kept (`Settings.lenses`)."""

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lexiscope.checkpoint import write_tensors
from lexiscope.language_model import LanguageModel
from lexiscope.language_model.jacobian import SKIPPED

LENGTH = 128
"""Tokens of a prompt, at most, as the lens's authors have it."""


def lens_file(model: LanguageModel, *, prompts: int, corpus: str, folder: Path) -> Path:
    """Where the lenses of a model and a text are kept."""
    return folder / f"{model.id}-{model.identity}-{corpus}-{prompts}.safetensors"


def jacobian_lenses(
    model: LanguageModel,
    layers: Sequence[int],
    passages: Iterable[np.ndarray],
    *,
    prompts: int,
    corpus: str,
    folder: Path,
    advance: Callable[[int], None] = lambda n: None,
) -> dict[int, Tensor]:
    """{layer: J [d_model, d_model]}, from `folder` or fitted on the first `prompts` passages that are long
    enough and kept there; the last layer's is 1. `corpus` is the text's fingerprint; `advance` is told of
    each prompt done. Raises TextError where no passage is long enough.
    """
    path = lens_file(model, prompts=prompts, corpus=corpus, folder=folder)
    below = sorted({layer for layer in layers if layer < model.n_layers - 1})
    kept = _kept(path)
    if not set(below) <= set(kept):
        usable = (
            torch.as_tensor(passage[:LENGTH]).long() for passage in passages if len(passage) > SKIPPED + 1
        )
        kept |= model.jacobians(list(islice(usable, prompts)), below, fast=True, advance=advance)
        folder.mkdir(parents=True, exist_ok=True)
        write_tensors(path, {str(layer): jacobian for layer, jacobian in kept.items()})
    last = {model.n_layers - 1: torch.eye(model.d_model)}
    return {layer: (kept | last)[layer] for layer in set(layers)}


def _kept(path: Path) -> dict[int, Tensor]:
    """What the file holds; nothing where it is missing or damaged."""
    try:
        return {int(layer): jacobian for layer, jacobian in load_file(path).items()}
    except (OSError, SafetensorError, ValueError):
        return {}
