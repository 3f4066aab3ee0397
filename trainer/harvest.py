"""Harvest the residual stream: one pass of the model writes all asked layers to memory-mapped bf16 files.

The files bound memory whatever the corpus size; they live as long as the `Harvest` is open.
"""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lexiscope.errors import LexiscopeError
from lexiscope.language_model import LanguageModel
from lexiscope.text import batches


class HarvestError(LexiscopeError):
    """Activations that cannot be trained on."""


class Harvest(NamedTuple):
    """The activations of n tokens at every asked layer; position 0 of each passage is not among them."""

    activations: dict[int, Tensor]
    """{layer: [n, d_model] bf16, memory-mapped}"""
    tokens: Tensor
    """[n] the token each activation stands on"""


@contextmanager
def harvest(
    model: LanguageModel,
    stream: Iterable[np.ndarray],
    *,
    layers: Sequence[int],
    tokens: int,
    folder: Path | None = None,
    advance: Callable[[int], None] = lambda n: None,
) -> Iterator[Harvest]:
    """Read up to `tokens` tokens of passages into files under `folder` (a temporary one unless given).

    Raises ModelError for a layer the model lacks, HarvestError for NaN, Inf or constant activations, or a full disk.
    """
    model.check_layers(layers)
    with tempfile.TemporaryDirectory(dir=folder, prefix="harvest-") as where:
        files = {layer: Path(where, f"{layer}.bf16") for layer in layers}
        try:
            seen = _write(model, stream, files, tokens, advance)
        except OSError as error:
            raise HarvestError(
                f"Activations could not be written under {where}: {error.strerror}. Free some disk or set TMPDIR."
            ) from error
        shape = (len(seen), model.d_model)
        found = {
            layer: torch.from_file(str(file), shared=True, size=shape[0] * shape[1], dtype=torch.bfloat16).view(shape)
            for layer, file in files.items()
        }
        for layer, x in found.items():
            if len(seen) < 2 or x[:4096].float().std(0).max() == 0:
                raise HarvestError(f"The activations of {model.id} at layer {layer} are constant: there is nothing to learn.")
        yield Harvest(found, seen)


def _write(
    model: LanguageModel, stream: Iterable[np.ndarray], files: dict[int, Path], tokens: int, advance: Callable[[int], None]
) -> Tensor:
    """Fill one file a layer; returns the tokens [n] the activations stand on."""
    seen: list[Tensor] = []
    left = tokens
    with ExitStack() as opened:
        sinks = {layer: opened.enter_context(file.open("wb")) for layer, file in files.items()}
        for batch in batches(stream):
            mask = batch.mask
            for layer, residual in model.read(batch.tokens.to(model.device), list(files)).items():
                part = residual[mask][:left]
                if not torch.isfinite(part).all():
                    raise HarvestError(f"The activations of {model.id} at layer {layer} hold NaN or Inf.")
                part.bfloat16().view(torch.int16).cpu().numpy().tofile(sinks[layer])
            seen.append(batch.tokens[mask][:left])
            left -= len(seen[-1])
            advance(len(seen[-1]))
            if left == 0:
                break
    return torch.cat(seen)
