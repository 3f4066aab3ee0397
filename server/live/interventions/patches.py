"""The patches of one forward pass over rows with different plans."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lexiscope.language_model import Patch
from server.live.interventions.plan import SteerPlan

_Conditions = dict[tuple[int, int], Tensor]
"""(row, id of a change) → [n] where the feature of its condition is active"""


class Cancelled(Exception):
    """The client that sent the request has disconnected."""


def patches_of(
    plans: Sequence[SteerPlan | None],
    tokens: Tensor,
    first: Sequence[int],
    *,
    cancelled: Callable[[], bool] = lambda: False,
) -> dict[int, Patch]:
    """{layer: patch} for one forward pass over rows with these plans; a row without a plan is not changed.

    `tokens` [rows, columns] are those of the pass, `first` is the position of its first column in each row. A
    patch raises Cancelled if `cancelled()`.
    """
    active: _Conditions = {}

    def patch_of(layer: int) -> Patch:
        def patch(residual: Tensor) -> Tensor:
            if cancelled():
                raise Cancelled
            steered = None
            for row, plan in enumerate(plans):
                if plan is None:
                    continue
                skip = 1 if first[row] == 0 else 0
                x = residual[row, skip:].float()
                if not len(x):
                    continue
                on = tokens[row, skip:].to(x.device)
                _read_conditions(plan, layer, x, on, row, active)
                delta = _delta(plan, layer, x, on, first[row] + skip, row, active)
                if delta is not None:
                    steered = residual.clone() if steered is None else steered
                    steered[row, skip:] = (x + delta).to(residual.dtype)
            return residual if steered is None else steered

        return patch

    layers = {layer for plan in plans if plan is not None for layer in plan.patched_layers()}
    return {layer: patch_of(layer) for layer in sorted(layers)}


def _read_conditions(
    plan: SteerPlan, layer: int, x: Tensor, tokens: Tensor, row: int, active: _Conditions
) -> None:
    """Record where the features are active that changes at this layer or a later one depend on."""
    for changes in plan.layers.values():
        for change in changes:
            if change.when is not None and change.when[0] == layer:
                active[row, id(change)] = change.when[1].activation(x, tokens) != 0


def _delta(
    plan: SteerPlan, layer: int, x: Tensor, tokens: Tensor, first: int, row: int, active: _Conditions
) -> Tensor | None:
    """[n, d_model] the sum of the layer's changes; None if there are none at these positions."""
    total = None
    done: dict[tuple[str, int], Tensor] = {}  # [n] where a feature has been set
    for change in plan.layers.get(layer, ()):
        selected = change.selects(first, len(x), plan.prompt)
        mask = None if selected is None else torch.tensor(selected, device=x.device)
        if change.when is not None:
            condition = active[row, id(change)]
            mask = condition if mask is None else mask & condition
        if mask is not None and not mask.any():
            continue
        for push in change.pushes:
            here = mask
            if push.sets is not None:
                wanted = torch.ones(len(x), dtype=torch.bool, device=x.device) if mask is None else mask
                before = done.get(push.sets)
                here = mask if before is None else wanted & ~before
                done[push.sets] = wanted if before is None else wanted | before
            delta = push.delta(x, tokens)
            delta = delta if here is None else torch.where(here[:, None], delta, 0)
            total = delta if total is None else total + delta
    return total
