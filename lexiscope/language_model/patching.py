"""Hooks on the residual stream of a transformer-lens bridge, set for the length of a `with` block."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from torch import Tensor

Patch = Callable[[Tensor], Tensor]
"""Maps the residual stream [batch, positions, d_model] at a hook point to the one that replaces it."""


def hook_name(layer: int) -> str:
    """The hook point of a layer: the residual stream after its block."""
    return f"blocks.{layer}.hook_resid_post"


@contextmanager
def patched(bridge: Any, patches: Mapping[int, Patch]) -> Iterator[None]:
    """Apply `patches` {layer: patch} to every forward pass inside the block; they are removed on any exit."""
    hooks = [
        (hook_name(layer), lambda residual, hook, patch=patch: patch(residual))
        for layer, patch in patches.items()
    ]
    with bridge.hooks(fwd_hooks=hooks):
        yield


@contextmanager
def captured(bridge: Any, layers: Sequence[int]) -> Iterator[dict[int, Tensor]]:
    """{layer: residual stream}, filled by the forward pass inside the block."""
    streams: dict[int, Tensor] = {}

    def capture(layer: int) -> Patch:
        def patch(residual: Tensor) -> Tensor:
            streams[layer] = residual
            return residual

        return patch

    with patched(bridge, {layer: capture(layer) for layer in layers}):
        yield streams


def unembed_from(bridge: Any, position: int) -> AbstractContextManager[Any]:
    """Inside the block, only the positions from `position` on are unembedded."""
    return bridge.hooks(fwd_hooks=[("unembed.hook_in", lambda normed, hook: normed[:, position:])])
