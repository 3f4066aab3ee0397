"""Interventions as patches of the residual stream, for a batch whose row 0 is the default and row 1 the steered one.

The dictionary's error term is kept: x' = x + Δ, so that Δ = 0 is exactly the unsteered model. Position 0 (BOS) is never touched.
    add      Δ = strength · mean_norm · W_dec[i] / ‖W_dec[i]‖      mean_norm: the layer's mean residual norm, position 0 excluded
    ablate   Δ = −z_i(x) · W_dec[i]                                 z_i(x): the activation in the code of x, 0 outside the top k
All interventions of one layer read the same x, so their order does not matter; those of a later layer read what earlier ones left.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lexiscope.dictionary import Dictionary
from lexiscope.errors import CheckpointError, ModelError
from lexiscope.language_model import LanguageModel, Patch
from server.live.wire import Intervention

ENCODE_POSITIONS = 256
"""positions encoded at once: bounds the [positions, d_sae] pre-activations of a long prompt"""

Change = Callable[[Tensor], Tensor]
"""Takes x [positions, d_model], all after position 0, and returns Δ: [positions, d_model] or [d_model]."""


class Loaded(NamedTuple):
    """A dictionary in memory."""

    dictionary: Dictionary
    mean_norm: float | None
    """the layer's mean residual norm; None for a foreign dictionary that does not say"""


class Cancelled(Exception):
    """The one who asked has gone."""


def change(asked: Intervention, loaded: Loaded) -> Change:
    """The change one intervention makes. Raises CheckpointError: an index out of range, no mean norm to add by."""
    dictionary, index = loaded.dictionary, asked.feature.index
    if not 0 <= index < dictionary.d_sae:
        raise CheckpointError(f"{asked.feature.id}: {asked.checkpoint_path} has {dictionary.d_sae:,} features; index the run again.")
    if asked.mode == "ablate":
        return _ablate(dictionary, index)
    if loaded.mean_norm is None:
        raise CheckpointError(
            f"{asked.checkpoint_path} does not give its layer's mean residual norm (metadata.lexiscope.mean_norm), "
            "the unit of strength: its features can be ablated, not added."
        )
    delta = asked.strength * loaded.mean_norm * F.normalize(dictionary.W_dec[index], dim=0)
    return lambda x: delta


def _ablate(dictionary: Dictionary, index: int) -> Change:
    direction = dictionary.W_dec[index]

    def delta(x: Tensor) -> Tensor:
        code = dictionary.encode(x)
        activation = torch.where(code.indices == index, code.values, 0).sum(-1, keepdim=True)
        return -activation * direction

    return lambda x: torch.cat([delta(part) for part in torch.split(x, ENCODE_POSITIONS)])


def patches(
    interventions: Sequence[Intervention], load: Callable[[str], Loaded], model: LanguageModel, *, cancelled: Callable[[], bool]
) -> dict[int, Patch]:
    """{layer: patch} for one generation, which may use them once. A patch raises Cancelled when `cancelled` says so.

    Raises ModelError and CheckpointError for what does not fit the model.
    """
    model.check_layers([asked.feature.layer for asked in interventions])
    changes: dict[int, list[Change]] = {}
    ablated: set[tuple[str, int]] = set()
    for asked in interventions:
        loaded = load(asked.checkpoint_path)
        if loaded.dictionary.d_in != model.d_model:
            raise ModelError(f"{asked.feature.id} reads {loaded.dictionary.d_in} dimensions, but {model.id} has {model.d_model}.")
        if asked.mode == "ablate":
            if (asked.checkpoint_path, asked.feature.index) in ablated:
                continue
            ablated.add((asked.checkpoint_path, asked.feature.index))
        changes.setdefault(asked.feature.layer, []).append(change(asked, loaded))
    return {layer: _patch(some, cancelled) for layer, some in changes.items()}


def _patch(changes: Sequence[Change], cancelled: Callable[[], bool]) -> Patch:
    seen = 0

    def patch(residual: Tensor) -> Tensor:
        nonlocal seen
        if cancelled():
            raise Cancelled
        first = 1 if seen == 0 else 0
        seen += residual.shape[1]
        x = residual[1, first:]
        if not len(x):
            return residual
        steered = residual.clone()
        steered[1, first:] = x + torch.stack([delta(x).expand_as(x) for delta in changes]).sum(0)
        return steered

    return patch
