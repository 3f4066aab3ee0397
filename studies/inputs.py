"""What studies read: checkpoints of one model, the model, and the residual stream of a text."""

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lexiscope.anchors import OUTLIER
from lexiscope.checkpoint import Checkpoint, load_checkpoint
from lexiscope.dictionary import Dictionary
from lexiscope.language_model import LanguageModel, load_language_model
from lexiscope.sparse_code import SparseCode
from lexiscope.text import Text, batches, passages
from studies.study import Arguments, StudyError

ENCODED = 4096
"""positions that are encoded at once"""


class Inputs(NamedTuple):
    """A model and its dictionaries."""

    model: LanguageModel
    checkpoints: list[Checkpoint]

    @property
    def layers(self) -> list[int]:
        """The layer of each dictionary."""
        return [checkpoint.layer for checkpoint in self.checkpoints]


def load_inputs(arguments: Arguments, *, at_least: int = 1, same_layer: bool = False) -> Inputs:
    """The dictionaries and their model. Raises StudyError: too few, of several models, of several layers
    where `same_layer`, or not of this model; CheckpointError and ModelError as their loaders do.
    """
    paths = arguments.dictionaries
    if len({path.resolve() for path in paths}) < at_least:
        raise StudyError(
            f"This study needs {at_least} different dictionaries or more, and was given {len(paths)}."
        )
    checkpoints = [load_checkpoint(path, layer=arguments.layer) for path in paths]
    layers = sorted({checkpoint.layer for checkpoint in checkpoints})
    if same_layer and len(layers) > 1:
        raise StudyError(f"This study compares dictionaries of one layer; these are of layers {layers}.")
    model = _model_of(checkpoints, arguments)
    model.check_layers(layers)
    for path, checkpoint in zip(paths, checkpoints, strict=True):
        if checkpoint.dictionary.d_in != model.d_model:
            raise StudyError(
                f"{path} reads a stream of width {checkpoint.dictionary.d_in}, and {model.id} has width "
                f"{model.d_model}: it was trained on another model."
            )
        checkpoint.dictionary.check_vocabulary(model.vocab_size, what=path)
    return Inputs(model, checkpoints)


def check_fixed_rows(dictionary: Dictionary) -> None:
    """Raises StudyError for a dictionary whose features do not write the same at every position."""
    if dictionary.normalise != "none":
        raise StudyError("A dictionary that normalises its input does not write the same everywhere.")


def _model_of(checkpoints: Sequence[Checkpoint], arguments: Arguments) -> LanguageModel:
    recorded = {_weights_of(checkpoint): checkpoint.model for checkpoint in checkpoints}
    if arguments.model is None and (len(recorded) > 1 or "" in recorded.values()):
        what = f"several models ({', '.join(recorded.values())})" if len(recorded) > 1 else "no model"
        raise StudyError(f"The dictionaries record {what}: name the one to use with --model.")
    path = arguments.model or next(iter(recorded.values()))
    known = checkpoints[0].details.get("model_id") if arguments.model is None else None
    return _loaded(path, arguments.model_id or known)


@lru_cache(2)
def _loaded(path: str, model_id: str | None) -> LanguageModel:
    """A model, kept for the next study of the same process."""
    return load_language_model(path, model_id=model_id)


def _weights_of(checkpoint: Checkpoint) -> str:
    """The fingerprint of the model's weights that it was trained on, or the model's path without one."""
    return str(checkpoint.details.get("plan", {}).get("weights") or checkpoint.model)


class Stream(NamedTuple):
    """The residual stream of a text. Position 0 of a passage is left out, and so are attention sinks
    (positions whose norm is above OUTLIER medians).
    """

    tokens: Tensor
    """[n] the token each position stands on"""
    passage: Tensor
    """[n] which passage it belongs to, from 0"""
    x: dict[int, Tensor]
    """{layer: [n, d_model]}"""

    @property
    def n_passages(self) -> int:
        return int(self.passage.max()) + 1

    def where(self, kept: Tensor) -> "Stream":
        """The positions of a mask [n]."""
        return Stream(self.tokens[kept], self.passage[kept], {layer: x[kept] for layer, x in self.x.items()})


def read_passages(
    model: LanguageModel, text: Sequence[str], *, tokens: int, length: int, field: str | None = None
) -> list[np.ndarray]:
    """Passages of token ids [≤ length], BOS first. Raises TextError for a text that gives none.

    Several files are read in turn, every second time backwards: every second passage is then of each of them.
    """
    met, placed = Counter[int](), list[tuple[int, int, np.ndarray]]()
    for source, ids in passages(model, Text(tuple(text), field), length=length, tokens=tokens).sourced():
        placed.append((met[source], -source if met[source] % 2 else source, ids))
        met[source] += 1
    return [ids for *_, ids in sorted(placed, key=lambda each: each[:2])]


def own_passages(
    model: LanguageModel, arguments: Arguments, text: Sequence[str] | None = None
) -> list[np.ndarray]:
    """The passages of a study's text, or of another one that it was given, at its sizes."""
    return read_passages(
        model,
        arguments.text if text is None else text,
        tokens=arguments.tokens,
        length=arguments.length,
        field=arguments.field,
    )


@torch.inference_mode()
def read_stream(
    model: LanguageModel, found: Sequence[np.ndarray], layers: Sequence[int], *, sinks: bool = False
) -> Stream:
    """The residual stream of passages after each of `layers`, in float32 on the CPU; with attention sinks
    where `sinks`.
    """
    tokens, passage = [], []
    x: dict[int, list[Tensor]] = {layer: [] for layer in layers}
    for batch in batches(found, tokens=ENCODED):
        streams, mask = model.read(batch.tokens.to(model.device), sorted(set(layers))), batch.mask
        tokens.append(batch.tokens[mask])
        passage.append(torch.tensor(batch.passages)[:, None].expand_as(mask)[mask])
        for layer, parts in x.items():
            parts.append(streams[layer].float().cpu()[mask])
    order = torch.cat(passage).argsort(stable=True)
    stream = Stream(
        torch.cat(tokens)[order],
        torch.cat(passage)[order],
        {layer: torch.cat(parts)[order] for layer, parts in x.items()},
    )
    return stream if sinks else stream.where(ordinary(stream))


def ordinary(stream: Stream) -> Tensor:
    """[n] bool: positions that are no attention sinks at any layer."""
    norms = [each.norm(dim=-1) for each in stream.x.values()]
    return torch.stack([norm <= OUTLIER * norm.median() for norm in norms]).all(0)


@torch.inference_mode()
def encode(dictionary: Dictionary, x: Tensor, tokens: Tensor) -> SparseCode:
    """The code of x [n, d_in] on tokens [n], padded with value 0 to its widest part."""
    parts = [
        dictionary.encode(some, on) for some, on in zip(x.split(ENCODED), tokens.split(ENCODED), strict=True)
    ]
    width = max(part.values.shape[1] for part in parts)
    pad = [(0, width - part.values.shape[1]) for part in parts]
    grow = torch.nn.functional.pad
    return SparseCode(
        torch.cat([grow(part.values, by) for part, by in zip(parts, pad, strict=True)]),
        torch.cat([grow(part.indices, by) for part, by in zip(parts, pad, strict=True)]),
    )


def firings(code: SparseCode, d_sae: int) -> Tensor:
    """[d_sae] positions at which each feature is active."""
    return torch.bincount(code.indices[code.values != 0], minlength=d_sae)


def source_of(checkpoint: Checkpoint) -> str:
    """What a dictionary is called in a table: `<layer>-<set>`."""
    return f"{checkpoint.layer}-{checkpoint.set_name}"
