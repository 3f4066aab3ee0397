"""Harvest the residual stream, or other points of the model: one pass over some passages writes each layer to
a bf16 file.

The files are memory-mapped, so that memory stays bounded whatever their size.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lexiscope.errors import LexiscopeError
from lexiscope.files import lack_of_space, temporary_folder
from lexiscope.language_model import LanguageModel, MlpPoint, Point, block_of
from lexiscope.text import Batch, batches
from trainer.activations.passages import LayerActivations

BYTES = 2
"""of one bf16 number"""

Positions = Literal["after-first", "all"]
"""Which positions of a passage are harvested: all but position 0 (an attention sink), or all."""


class HarvestError(LexiscopeError):
    """Activations that cannot be trained on, or not kept."""


class Layout(NamedTuple):
    """What stands at each of n harvested positions, passage after passage."""

    tokens: Tensor
    """[n] the token"""
    previous: Tensor
    """[n] the token before it (BOS opens a passage), −1 at position 0"""
    following: Tensor
    """[n] the token after it, −1 at a passage's end"""
    starts: Tensor
    """[passages] where each passage begins"""
    numbers: Tensor
    """[passages] its number in the text; passages of similar length are harvested together"""
    bos: int | None
    """the token at position 0, where that position is not harvested"""


class Harvest(NamedTuple):
    """The activations of n positions at some layers."""

    activations: dict[Point, Tensor]
    """{layer: [n, d_model] bf16, memory-mapped}"""
    layout: Layout

    def at(self, layer: int, *, transcoder: bool = False) -> LayerActivations:
        """The residual stream after block `layer`; for a transcoder, its MLP's input and output."""
        reads, writes = points(layer, transcoder=transcoder)
        layout = self.layout
        return LayerActivations(
            self.activations[reads],
            layout.tokens,
            layout.starts,
            layout.numbers,
            layout.bos,
            self.activations[writes] if transcoder else None,
        )


def points(layer: int, *, transcoder: bool) -> tuple[Point, Point]:
    """(what a dictionary of this layer reads, what it reconstructs)."""
    return (MlpPoint(layer, "in"), MlpPoint(layer, "out")) if transcoder else (layer, layer)


def count(passages: Sequence[np.ndarray], positions: Positions = "after-first") -> int:
    """Positions that a harvest of these passages holds."""
    return sum(map(len, passages)) - (len(passages) if positions == "after-first" else 0)


def layout(passages: Sequence[np.ndarray], positions: Positions = "after-first") -> Layout:
    """What stands at the positions of a harvest of these passages, in its order."""
    tokens, before, after, lengths, numbers = [], [], [], [], []
    for batch in batches(passages):
        mask = _mask(batch, positions)
        shifted = batch.tokens.roll(1, 1)
        shifted[:, 0] = -1
        tokens.append(batch.tokens[mask])
        before.append(shifted[mask])
        after.append(batch.next_tokens[mask])
        lengths.append(mask.sum(1))
        numbers += batch.passages
    ends = torch.cat(lengths).cumsum(0)
    return Layout(
        torch.cat(tokens),
        torch.cat(before),
        torch.cat(after),
        torch.cat([ends.new_zeros(1), ends[:-1]]),
        torch.tensor(numbers),
        int(passages[0][0]) if positions == "after-first" else None,
    )


def _mask(batch: Batch, positions: Positions) -> Tensor:
    """[batch, positions] which of a padded batch are harvested."""
    if positions == "after-first":
        return batch.mask
    return torch.arange(batch.tokens.shape[1]) < batch.lengths[:, None]


@contextmanager
def harvest(
    model: LanguageModel,
    passages: Sequence[np.ndarray],
    *,
    layers: Sequence[Point],
    positions: Positions = "after-first",
    folder: Path | None = None,
    advance: Callable[[int], None] = lambda n: None,
) -> Iterator[Harvest]:
    """The activations of the passages, in files under `folder` (TMPDIR unless given) that last as long as the
    block; `advance` is called with the number of positions read since its last call.

    Raises ModelError for a layer the model lacks, HarvestError for NaN, Inf or constant activations, or a
    full disk.
    """
    with ExitStack() as stack:
        try:
            where = stack.enter_context(temporary_folder("lexiscope-harvest-", folder))
        except OSError as error:
            raise _not_written(folder or Path("TMPDIR"), error) from error
        files: dict[Point, Path] = {layer: where / f"{layer}.bf16" for layer in layers}
        n = count(passages, positions)
        write_activations(model, passages, files, positions=positions, advance=advance)
        mapped = {layer: map_activations(file, n) for layer, file in files.items()}
        yield Harvest(mapped, layout(passages, positions))


def write_activations(
    model: LanguageModel,
    passages: Sequence[np.ndarray],
    files: Mapping[Point, Path],
    *,
    positions: Positions = "after-first",
    advance: Callable[[int], None] = lambda n: None,
) -> None:
    """Fill one file a layer, flushed to disk. Raises as `harvest`."""
    model.check_layers([block_of(layer) for layer in files])
    where = next(iter(files.values())).parent
    refuse_full_disk(where, len(files) * count(passages, positions) * model.d_model * BYTES)
    try:
        with ExitStack() as opened:
            sinks = {layer: opened.enter_context(file.open("wb")) for layer, file in files.items()}
            first = True
            for batch in batches(passages):
                mask = _mask(batch, positions)
                streams = model.read(batch.tokens.to(model.device), list(files), fast=True)
                for layer, residual in streams.items():
                    part = residual[mask.to(residual.device)]
                    _check(part, f"The activations of {model.id} at layer {layer}", first=first)
                    part.bfloat16().view(torch.int16).cpu().numpy().tofile(sinks[layer])
                first = False
                advance(int(mask.sum()))
            for sink in sinks.values():
                sink.flush()
                os.fsync(sink.fileno())
    except OSError as error:
        raise _not_written(where, error) from error


def _not_written(where: Path, error: OSError) -> HarvestError:
    return HarvestError(
        f"Activations could not be written under {where}: {error.strerror or error}. Free some disk, or "
        "give another place with --cache or TMPDIR."
    )


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
    """Raises HarvestError where `needed` bytes do not fit, before the model runs."""
    if lack := lack_of_space(where, needed):
        raise HarvestError(
            f"Activations of {lack}. Ask for fewer --tokens or --layers, a smaller --buffer, or another "
            "place with --cache or TMPDIR."
        )
