"""One dictionary for several layers of a model (`Config.layers`).

`shared` is layer groups (Ghilardi et al. 2024, arXiv 2410.21508): it is trained on the activations of all
layers, each centred and scaled on its own, and is written once for each of them.

`written` is a weakly causal crosscoder ("Sparse crosscoders for cross-layer features and model diffing",
2024): it reads the first layer, and reconstructs this one and the others from the same code. What it is at
the first layer is a dictionary like any other; the rows that write the other layers stand in a file beside
it.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor

from lexiscope.checkpoint import AnchorFit
from lexiscope.dictionary import Dictionary
from trainer.activations.harvest import Harvest
from trainer.activations.passages import LayerActivations
from trainer.architectures import Architecture
from trainer.initialise import Centring, centring

CROSSCODER = "crosscoder.safetensors"
"""Beside a crosscoder's weights: for each later layer, W_dec.<layer> [d_sae, d_in], b_dec.<layer> [d_in] and,
where there is a dense path, dense_out.<layer> [rank, d_in], in the raw space of that layer.
"""
WRITING = ("W_dec", "b_dec", "dense_out")
"""What a crosscoder has for each layer; all else is of the layer that it reads."""
PART = 65536


class ForLayer(NamedTuple):
    """What is written for one layer."""

    dictionary: Dictionary
    """in raw space"""
    fit: AnchorFit
    scale: float
    mean_norm: float


def centrings(harvest: Harvest, layers: Sequence[int]) -> dict[int, Centring]:
    return {layer: centring(harvest.at(layer).x) for layer in layers}


def shared(harvest: Harvest, found: dict[int, Centring]) -> LayerActivations:
    """The activations of all layers, one layer after another, moved to the centre and scale of the first; in
    memory.
    """
    home, *others = found
    first, parts = harvest.at(home), [harvest.at(home).x]
    for layer in others:
        moved = [
            found[home].restore(found[layer].normalise(part)).bfloat16()
            for part in harvest.at(layer).x.split(PART)
        ]
        parts.append(torch.cat(moved))
    n = len(found)
    starts = torch.cat([first.starts + at * len(first.tokens) for at in range(n)])
    return LayerActivations(
        torch.cat(parts), first.tokens.repeat(n), starts, first.numbers.repeat(n), first.bos
    )


def written(harvest: Harvest, found: dict[int, Centring]) -> LayerActivations:
    """The first layer's activations with, as what is reconstructed, those of all layers side by side, each
    scaled on its own; in memory.
    """
    first = harvest.at(next(iter(found)))
    target = torch.cat(
        [(harvest.at(layer).x.float() * each.scale).bfloat16() for layer, each in found.items()], 1
    )
    return first._replace(target=target)


def shared_result(architecture: Architecture, lift: Tensor, own: Centring, home: Centring) -> ForLayer:
    """The dictionary of a group at a layer with the centring `own`; `home` is that of the first layer."""
    joint, fit = architecture.centring, architecture.anchor_fit(lift)
    ratio = joint.scale / home.scale
    scale, mean = own.scale * ratio, (own.mean - home.mean) * ratio + joint.mean.cpu()
    moved = fit._replace(anchors=fit.anchors * (joint.scale / scale), mean=mean / scale)
    return ForLayer(architecture.dictionary().fold(mean, scale), moved, scale, own.mean_norm)


def written_results(
    architecture: Architecture, lift: Tensor, found: dict[int, Centring]
) -> tuple[ForLayer, dict[str, Tensor]]:
    """A crosscoder at the layer that it reads, and the tensors of CROSSCODER."""
    reads, writes = architecture.centring, architecture.target_centring
    whole = architecture.dictionary().fold(
        reads.mean.cpu(), reads.scale, target_mean=writes.mean.cpu(), target_scale=writes.scale
    )
    width = whole.d_in
    joint = {name: tensor.split(width, -1) for name, tensor in whole.tensors().items() if name in WRITING}
    own: dict[int, dict[str, Any]] = {
        layer: {name: (split[at] / each.scale).contiguous() for name, split in joint.items()}
        for at, (layer, each) in enumerate(found.items())
    }
    home = next(iter(found))
    fit = architecture.anchor_fit(lift)
    first = found[home]
    at_home = replace(whole, **own.pop(home))
    fit = fit._replace(
        anchors=(fit.anchors[:, :width] / first.scale).contiguous(),
        mean=(fit.mean[:width] / first.scale).contiguous(),
    )
    tensors = {f"{name}.{layer}": part for layer in own for name, part in own[layer].items()}
    return ForLayer(at_home, fit, first.scale, first.mean_norm), tensors


def parts(activations: LayerActivations, found: dict[int, Centring], n: int) -> dict[int, Tensor]:
    """The first n raw activations of each layer but the first, from what `written` joined."""
    assert activations.target is not None
    sides = activations.target[:n].float().chunk(len(found), 1)
    return {layer: side / found[layer].scale for layer, side in list(zip(found, sides, strict=True))[1:]}


def save_written(folder: Path, tensors: dict[str, Tensor]) -> None:
    save_file(tensors, folder / CROSSCODER)


@torch.no_grad()
def explained(
    dictionary: Dictionary, tensors: dict[str, Tensor], x: Tensor, others: dict[int, Tensor]
) -> dict[int, float]:
    """The share of the variance of each later layer's activations [n, d] that a crosscoder reconstructs from
    x [n, d].
    """
    code, found = dictionary.encode(x), {}
    for layer, actual in others.items():
        own: dict[str, Any] = {
            name: tensors[f"{name}.{layer}"] for name in WRITING if f"{name}.{layer}" in tensors
        }
        error = replace(dictionary, **own).decode(code, x) - actual
        spread = (actual - actual.mean(0)).square().sum()
        found[layer] = float(1 - error.square().sum() / spread)
    return found
