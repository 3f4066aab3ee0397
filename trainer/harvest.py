"""Harvest the residual stream: one pass of the model over some passages writes every asked layer to a bf16
file.

The files are memory-mapped, so that memory stays bounded whatever their size.
"""

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lexiscope.errors import LexiscopeError
from lexiscope.language_model import LanguageModel
from lexiscope.text import batches
from trainer.disk import lacks_room

BYTES = 2
"""of one bf16 number"""


class HarvestError(LexiscopeError):
    """Activations that cannot be trained on, or not kept."""


class Harvest(NamedTuple):
    """The activations of n tokens at every asked layer; position 0 of each passage is not among them."""

    activations: dict[int, Tensor]
    """{layer: [n, d_model] bf16, memory-mapped}"""
    tokens: Tensor
    """[n] the token each activation stands on"""
    previous: Tensor
    """[n] the token before it (BOS opens a passage)"""
    following: Tensor
    """[n] the token after it, −1 at a passage's end"""


def count(passages: Sequence[np.ndarray]) -> int:
    """Tokens that a harvest of these passages holds: all but BOS."""
    return sum(len(passage) - 1 for passage in passages)


def neighbours(passages: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
    """(previous, following) of every position of a harvest of these passages, in its order."""
    before, after = [], []
    for batch in batches(passages):
        before.append(batch.tokens.roll(1, 1)[batch.mask])
        after.append(batch.next_tokens[batch.mask])
    return torch.cat(before), torch.cat(after)


@contextmanager
def harvest(
    model: LanguageModel,
    passages: Sequence[np.ndarray],
    *,
    layers: Sequence[int],
    folder: Path | None = None,
    advance: Callable[[int], None] = lambda n: None,
) -> Iterator[Harvest]:
    """The activations of the passages, in files under `folder` (TMPDIR unless given) that last as long as the
    block.

    Raises ModelError for a layer the model lacks, HarvestError for NaN, Inf or constant activations, or a
    full disk.
    """
    with tempfile.TemporaryDirectory(dir=folder, prefix="harvest-") as where:
        files = {layer: Path(where, f"{layer}.bf16") for layer in layers}
        tokens = write_activations(model, passages, files, advance=advance)
        yield Harvest(
            {layer: map_activations(file, len(tokens)) for layer, file in files.items()},
            tokens,
            *neighbours(passages),
        )


def write_activations(
    model: LanguageModel,
    passages: Sequence[np.ndarray],
    files: Mapping[int, Path],
    *,
    advance: Callable[[int], None] = lambda n: None,
) -> Tensor:
    """Fill one file a layer, flushed to disk; returns the tokens [n] the activations stand on. Raises as
    `harvest`.
    """
    model.check_layers(list(files))
    where = next(iter(files.values())).parent
    refuse_full_disk(where, len(files) * count(passages) * model.d_model * BYTES)
    seen: list[Tensor] = []
    try:
        with ExitStack() as opened:
            sinks = {layer: opened.enter_context(file.open("wb")) for layer, file in files.items()}
            for batch in batches(passages):
                mask = batch.mask
                for layer, residual in model.read(batch.tokens.to(model.device), list(files)).items():
                    part = residual[mask.to(residual.device)]
                    _check(part, f"The activations of {model.id} at layer {layer}", first=not seen)
                    part.bfloat16().view(torch.int16).cpu().numpy().tofile(sinks[layer])
                seen.append(batch.tokens[mask])
                advance(len(seen[-1]))
            for sink in sinks.values():
                sink.flush()
                os.fsync(sink.fileno())
    except OSError as error:
        raise HarvestError(
            f"Activations could not be written under {where}: {error.strerror or error}. Free some disk, or give another place with "
            "--cache or TMPDIR."
        ) from error
    return torch.cat(seen)


def _check(part: Tensor, what: str, *, first: bool) -> None:
    if not torch.isfinite(part).all():
        raise HarvestError(f"{what} hold NaN or Inf.")
    if first and (part == part[0]).all():
        raise HarvestError(f"{what} are constant: there is nothing to learn.")


def map_activations(file: Path, n: int) -> Tensor:
    """[n, d_model] bf16 of a file that `write_activations` wrote."""
    size = file.stat().st_size // BYTES
    return torch.from_file(str(file), shared=False, size=size, dtype=torch.bfloat16).view(n, size // n)


def refuse_full_disk(where: Path, needed: int) -> None:
    """Raises HarvestError where `needed` bytes do not fit, before time is spent on making them."""
    if wrong := lacks_room(where, needed):
        raise HarvestError(
            f"Activations of {wrong}. Ask for fewer --tokens or --layers, a smaller --buffer, or another place with --cache or TMPDIR."
        )
