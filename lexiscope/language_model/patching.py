"""Hooks on a transformer-lens bridge, set for the length of a `with` block."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Literal, NamedTuple, TypeVar

from torch import Tensor

Patch = Callable[[Tensor], Tensor]
"""Maps the tensor [batch, positions, d_model] at a hook point to the one that replaces it."""


class MlpPoint(NamedTuple):
    """What the MLP of a block reads (after its norm), or what it adds to the residual stream (after the norm
    that some architectures have there).
    """

    layer: int
    side: Literal["in", "out"]

    def __str__(self) -> str:
        return f"{self.layer}.mlp_{self.side}"


Point = int | MlpPoint
"""Where activations are read or patched; a number is the residual stream after that block."""
P = TypeVar("P", bound=Point)


def hook_name(point: Point) -> str:
    """What transformer-lens calls a point."""
    if isinstance(point, int):
        return f"blocks.{point}.hook_resid_post"
    return f"blocks.{point.layer}.{'mlp.hook_in' if point.side == 'in' else 'hook_mlp_out'}"


def block_of(point: Point) -> int:
    """The block that a point belongs to."""
    return point if isinstance(point, int) else point.layer


@contextmanager
def patched(bridge: Any, patches: Mapping[P, Patch]) -> Iterator[None]:
    """Apply `patches` {point: patch} to every forward pass inside the block; they are removed on any exit."""
    hooks = [
        (hook_name(point), lambda value, hook, patch=patch: patch(value)) for point, patch in patches.items()
    ]
    with bridge.hooks(fwd_hooks=hooks):
        yield


@contextmanager
def captured(bridge: Any, points: Sequence[P]) -> Iterator[dict[P, Tensor]]:
    """{point: activations}, filled by the forward pass inside the block."""
    found: dict[P, Tensor] = {}

    def capture(point: P) -> Patch:
        def patch(value: Tensor) -> Tensor:
            found[point] = value
            return value

        return patch

    with patched(bridge, {point: capture(point) for point in points}):
        yield found


def unembed_from(bridge: Any, position: int) -> AbstractContextManager[Any]:
    """Inside the block, only the positions from `position` on are unembedded."""
    return bridge.hooks(fwd_hooks=[("unembed.hook_in", lambda normed, hook: normed[:, position:])])
