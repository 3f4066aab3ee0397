"""The Jacobian lens: how a small change of the residual stream after a block reaches the stream after the
last one, on average over a text (Gurnee et al. 2026, transformer-circuits.pub/2026/workspace).

    J_l = mean over prompts and positions t of Σ_{t' ≥ t} ∂h_last[t'] / ∂h_l[t]

A direction d of layer l then writes what J_l d reads out as; the logit lens is J_l = 1.

A backward pass gives one row of J on each prompt of a batch. Its rows are dealt out to the prompts: at the
same cost, the errors of a row on few prompts are independent of those of the others, and cancel in J_l d.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lexiscope.errors import ModelError, TextError
from lexiscope.language_model.patching import captured

SKIPPED = 16
"""First positions of a prompt that are left out, as its authors do; so is the last position."""
ROWS = 8
"""Rows of J computed in one backward pass, each on another prompt of the batch."""


def fit_jacobians(
    bridge: Any,
    prompts: Sequence[Tensor],
    layers: Sequence[int],
    *,
    advance: Callable[[int], None] = lambda n: None,
) -> dict[int, Tensor]:
    """{layer: J [d_model, d_model] in float32} of layers below the last, which is 1 and is left out.

    `prompts` are token ids [n], BOS included; those of SKIPPED + 1 tokens or fewer are left out. A row is the
    mean over one prompt of each batch of ROWS. `advance` is told how many prompts are done. Raises TextError
    where no prompt is long enough.
    """
    last = bridge.cfg.n_layers - 1
    wanted = sorted({layer for layer in layers if layer < last})
    usable = [prompt for prompt in prompts if len(prompt) > SKIPPED + 1]
    if not usable:
        raise TextError(
            f"The Jacobian lens needs passages of more than {SKIPPED + 1} tokens: the text has none."
        )
    totals = {layer: torch.zeros(bridge.cfg.d_model, bridge.cfg.d_model) for layer in wanted}
    n_batches = -(-len(usable) // ROWS)
    batches = [usable[at::n_batches] for at in range(n_batches)]
    if wanted:
        with _constant_weights(bridge):
            for turn, batch in enumerate(batches):
                for layer, jacobian in _of_prompts(bridge, batch, wanted, turn).items():
                    totals[layer] += jacobian / len(batches)
                advance(len(batch))
    return totals


def read_lens(path: str | Path, layer: int, n_layers: int) -> Tensor | None:
    """[d_model, d_model] the lens of a layer from a file that keeps them by layer; None for the last layer,
    where it is 1. Raises ModelError where the file does not hold it.
    """
    if layer == n_layers - 1:
        return None
    try:
        with safe_open(path, framework="pt") as file:
            return file.get_tensor(str(layer)).float()
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"The Jacobian lens of layer {layer} cannot be read from {path}: index the dictionaries again "
            "with --lens-prompts."
        ) from error


def pulled_back(bridge: Any, prompts: Sequence[Tensor], layer: int, directions: Tensor) -> Tensor:
    """[n, d_model] directions [n, d_model] read after block `layer`, pulled back to the token embeddings: the
    mean over prompts and positions t of Σ_{t' ≥ t} (∂h_layer[t'] / ∂embedding[t])ᵀ direction. What the key
    list of Query Lens reads (Lee et al. 2026, arXiv 2606.07617), with the norms differentiated too.

    `prompts` as in `fit_jacobians`. Raises TextError where no prompt is long enough.
    """
    usable = [prompt for prompt in prompts if len(prompt) > SKIPPED + 1]
    if not usable:
        raise TextError(f"Directions are pulled back over passages of more than {SKIPPED + 1} tokens.")
    found = torch.zeros_like(directions)
    with _constant_weights(bridge):
        for prompt in usable:
            for rows in torch.arange(len(directions)).split(ROWS):
                kept: list[Tensor] = []

                def begin(stream: Tensor, hook: Any, kept: list[Tensor] = kept) -> Tensor:
                    kept.append(stream.detach().requires_grad_())
                    return kept[0]

                tokens = prompt.to(bridge.W_E.device).expand(len(rows), -1)
                start = bridge.hooks(fwd_hooks=[("blocks.0.hook_resid_pre", begin)])
                with torch.enable_grad(), start, captured(bridge, [layer]) as streams:
                    bridge(tokens, return_type=None, stop_at_layer=layer + 1)
                slope = torch.zeros_like(streams[layer])
                slope[:, SKIPPED:-1] = directions[rows, None].to(slope)
                [gradient] = torch.autograd.grad(streams[layer], kept, slope)
                found[rows] += gradient[:, SKIPPED:-1].float().mean(1).cpu() / len(usable)
    return found


def _of_prompts(
    bridge: Any, prompts: Sequence[Tensor], layers: Sequence[int], turn: int
) -> dict[int, Tensor]:
    """Row i on prompt i + turn, counted round."""
    width, last = bridge.cfg.d_model, bridge.cfg.n_layers - 1
    batch = [prompts[at % len(prompts)] for at in range(min(ROWS, width))]
    tokens = pad_sequence(batch, batch_first=True).to(bridge.W_E.device)
    with torch.enable_grad(), _roots(bridge, layers[0]), captured(bridge, [*layers, last]) as streams:
        bridge(tokens, return_type=None)
    target = streams[last]
    sources = [streams[layer] for layer in layers]
    found = {layer: torch.zeros(width, width) for layer in layers}
    for first in range(0, width, len(batch)):
        rows = range(first, min(first + len(batch), width))
        slope, places = torch.zeros_like(target), [(row + turn) % len(batch) for row in rows]
        for row, place in zip(rows, places, strict=True):
            slope[place, SKIPPED : len(batch[place]) - 1, row] = 1
        gradients = torch.autograd.grad(target, sources, slope, retain_graph=rows.stop < width)
        for layer, gradient in zip(layers, gradients, strict=True):
            for row, place in zip(rows, places, strict=True):
                mean = gradient[place, SKIPPED : len(batch[place]) - 1].float().mean(0)
                found[layer][row] = mean.cpu()
    return found


@contextmanager
def _roots(bridge: Any, layer: int) -> Iterator[None]:
    """The graph begins at the stream after `layer`."""

    def begin(stream: Tensor, hook: Any) -> Tensor:
        return stream.requires_grad_()

    with bridge.hooks(fwd_hooks=[(f"blocks.{layer}.hook_resid_post", begin)]):
        yield


@contextmanager
def _constant_weights(bridge: Any) -> Iterator[None]:
    """Inside the block no gradient flows into the weights."""
    flags = [(parameter, parameter.requires_grad) for parameter in bridge.parameters()]
    for parameter, _ in flags:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
