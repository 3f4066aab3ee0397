"""Harvest the residual stream: one pass of the model writes all asked layers to memory-mapped bf16 files.

The files bound memory whatever the corpus size; they live as long as the `Harvest` is open.
"""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lexiscope.errors import LexiscopeError, ModelError
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

    Raises ModelError for a layer the model lacks, HarvestError for NaN, Inf or constant activations or a full disk.
    """
    model.check_layers(layers)
    with tempfile.TemporaryDirectory(dir=folder, prefix="harvest-") as where:
        files = {layer: Path(where, f"{layer}.bf16") for layer in layers}
        try:
            maps = {
                layer: torch.from_file(str(file), shared=True, size=tokens * model.d_model, dtype=torch.bfloat16).view(tokens, -1)
                for layer, file in files.items()
            }
            at, seen = 0, []
            for batch in batches(stream):
                mask = batch.mask
                residuals = model.read(batch.tokens.to(model.device), layers)
                n = min(int(mask.sum()), tokens - at)
                for layer, residual in residuals.items():
                    part = residual[mask][:n]
                    if not torch.isfinite(part).all():
                        raise HarvestError(f"The activations of {model.id} at layer {layer} hold NaN or Inf.")
                    maps[layer][at : at + n] = part
                seen.append(batch.tokens[mask][:n])
                at += n
                advance(n)
                if at == tokens:
                    break
        except (OSError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and "file" not in str(error):
                raise
            raise HarvestError(f"Activations could not be written under {where}: {error}. Free some disk or set TMPDIR.") from error
        found = Harvest({layer: mapped[:at] for layer, mapped in maps.items()}, torch.cat(seen))
        for layer, x in found.activations.items():
            if at < 2 or x[: min(at, 4096)].float().std(0).max() == 0:
                raise ModelError(f"The activations of {model.id} at layer {layer} are constant: there is nothing to learn.")
        yield found
