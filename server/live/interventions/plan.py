"""The plan of one steered row: for each layer, the pushes that its interventions make.

The dictionary's error term is kept: x' = x + Δ. Position 0 (BOS) is never changed. Every Δ is a length along
the unit direction d of the feature that is pushed. z(x) is the feature's activation in the code of x, and
w(x) the norm of what one unit of that activation adds to the reconstruction of x.

    add         strength · mean_norm          mean_norm: the layer's mean residual norm, position 0 excluded;
                strength · w(x)               in the unit activation
    component   strength · w(x) − x · d       in the unit activation
    orthogonal  as add, and x' is rescaled to the norm of x
    clamp       (target − z(x)) · w(x)
    scale       (factor − 1) · z(x) · w(x)
    ablate      −z(x) · w(x)
    swap A → B  −z_A(x) · w_A(x) along A, and strength · z_A(x) · w_B(x) along B

All interventions of one layer read the same x. Interventions of a later layer read the stream that earlier
ones changed. What sets a feature (component, clamp, scale, ablate, what a swap removes) does so once at each
position: where several do, removals count before all others, and then the first. A push whose length is
always 0 (strength 0, or factor 1 of a scale) is left out; a plan without pushes is exactly the unsteered
model.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch.nn.functional as F
from torch import Tensor

from lexiscope.errors import CheckpointError, ModelError
from lexiscope.language_model import LanguageModel
from server.live.interventions.features import DictionaryFeature, LoadDictionary, load_direction, load_feature
from server.live.messages import Intervention

Length = Callable[[Tensor, Tensor], Tensor | float]
"""x [n, d_model] on tokens [n] → [n, 1], or one number for all x"""


@dataclass(frozen=True)
class Push:
    """One direction [d_model] of norm 1, and how far x is moved along it."""

    direction: Tensor
    length: Length
    keep_norm: bool = False
    intervention: int | None = None
    """number of the intervention whose controls push another direction; None for the feature that a swap
    removes
    """
    sets: tuple[str, int] | None = None
    """the feature, as (checkpoint, index), that gets another activation; None for what is only added"""

    def delta(self, x: Tensor, tokens: Tensor) -> Tensor:
        """[n, d_model] what is added to x [n, d_model] on tokens [n]."""
        moved = self.length(x, tokens) * self.direction
        if not self.keep_norm:
            return moved.expand_as(x)
        ratio = x.norm(dim=-1, keepdim=True) / (x + moved).norm(dim=-1, keepdim=True).clamp_min(1e-12)
        return x * (ratio - 1) + moved * ratio


@dataclass(frozen=True)
class Change:
    """The pushes of one intervention, and the positions at which they apply."""

    pushes: tuple[Push, ...]
    where: str = "all"
    positions: frozenset[int] | None = None
    when: tuple[int, DictionaryFeature] | None = None
    """the layer and the feature that must be active"""

    def selects(self, first: int, n: int, prompt: int) -> list[bool] | None:
        """Which of the n positions from `first` on (0 is BOS) are selected, conditions aside; None: all of
        them.
        """
        span = range(first, first + n)
        if self.positions is not None:
            return [position - 1 in self.positions for position in span]
        match self.where:
            case "prompt":
                return [position <= prompt for position in span]
            case "generated":
                return [position > prompt for position in span]
        return None


@dataclass(frozen=True)
class SteerPlan:
    """The changes to one row, by layer. `prompt` is the number of prompt tokens without BOS."""

    layers: Mapping[int, Sequence[Change]] = field(default_factory=dict)
    prompt: int = 0

    @property
    def steers(self) -> bool:
        """False if the row is the unsteered one, because no intervention can change anything."""
        return bool(self.layers)

    def patched_layers(self) -> set[int]:
        """The layers that are changed, or read for a condition."""
        conditions = (change.when for changes in self.layers.values() for change in changes)
        return {*self.layers, *(condition[0] for condition in conditions if condition)}

    def along(self, directions: Sequence[Tensor]) -> "SteerPlan":
        """The same changes along other directions, one for each intervention. Directions are scaled to norm
        1.
        """

        def turned(push: Push) -> Push:
            if push.intervention is None:
                return push
            return replace(push, direction=F.normalize(directions[push.intervention], dim=0))

        layers = {
            layer: [replace(change, pushes=tuple(map(turned, change.pushes))) for change in changes]
            for layer, changes in self.layers.items()
        }
        return replace(self, layers=layers)


def make_plan(
    interventions: Sequence[Intervention], load: LoadDictionary, model: LanguageModel, *, prompt: int
) -> SteerPlan:
    """The plan of one row whose prompt has `prompt` tokens. Raises ModelError and CheckpointError for
    interventions that do not fit the model or the dictionary.
    """
    model.check_layers([one.feature.layer for one in interventions])
    layers: dict[int, list[Change]] = {}
    for number, one in sorted(enumerate(interventions), key=lambda numbered: not _removes(numbered[1])):
        condition = _condition(one, load, model)
        pushes = _pushes(one, number, load, model)
        if pushes:
            positions = None if one.positions is None else frozenset(one.positions)
            layers.setdefault(one.feature.layer, []).append(Change(pushes, one.where, positions, condition))
    return SteerPlan(layers, prompt)


def _removes(one: Intervention) -> bool:
    """Whether it gives its feature an activation of 0."""
    return one.mode in ("ablate", "swap") or (one.mode in ("clamp", "scale") and one.strength == 0)


def _condition(
    one: Intervention, load: LoadDictionary, model: LanguageModel
) -> tuple[int, DictionaryFeature] | None:
    if one.when is None:
        return None
    layer = one.when.feature.layer
    if layer > one.feature.layer:
        raise ModelError(
            f"{one.feature.id} cannot depend on {one.when.feature.id}: layer {layer} comes after layer "
            f"{one.feature.layer}. Use a condition at the same or an earlier layer."
        )
    return layer, load_feature(one.when, load, model)


def _pushes(one: Intervention, number: int, load: LoadDictionary, model: LanguageModel) -> tuple[Push, ...]:
    """The pushes of one intervention, without those whose length is always 0."""
    own = one.checkpoint_path, one.feature.index
    match one.mode:
        case "component":
            feature = load_feature(one, load, model)
            return (
                Push(feature.direction, _component(feature, one.strength), intervention=number, sets=own),
            )
        case "add" if one.unit == "activation":
            feature = load_feature(one, load, model)
            raised = Push(feature.direction, _raised(feature, one.strength), intervention=number)
            return (raised,) if one.strength else ()
        case "add" | "orthogonal":
            length = one.strength * _mean_norm(one, load)
            direction = load_direction(one, load, model)
            added = Push(direction, lambda x, tokens: length, one.mode == "orthogonal", number)
            return (added,) if length else ()
        case "swap":
            return _swap(one, number, load_feature(one, load, model), _swap_target(one, load, model))
        case "scale" if one.strength == 1:
            return ()
        case "clamp" | "scale" | "ablate":
            feature = load_feature(one, load, model)
            return (Push(feature.direction, _length(feature, _change(one)), intervention=number, sets=own),)


def _change(one: Intervention) -> Callable[[Tensor], Tensor]:
    """What a clamp, a scale or an ablation adds to an activation, as a function of it."""
    if one.mode == "clamp":
        target = _target(one)
        return lambda activation: target - activation
    factor = one.strength - 1 if one.mode == "scale" else -1
    return lambda activation: factor * activation


def _raised(feature: DictionaryFeature, strength: float) -> Length:
    """What `strength` more of the feature's activation adds."""
    return lambda x, tokens: (strength * feature.unit_length(x))[:, None]


def _component(feature: DictionaryFeature, strength: float) -> Length:
    """From x's component along the feature's direction to what an activation of `strength` adds."""
    return lambda x, tokens: (strength * feature.unit_length(x) - x @ feature.direction)[:, None]


def _swap(
    one: Intervention, number: int, feature: DictionaryFeature, target: DictionaryFeature
) -> tuple[Push, ...]:
    own = one.checkpoint_path, one.feature.index
    removed = Push(feature.direction, _length(feature, lambda activation: -activation), sets=own)
    if not one.strength:
        return (removed,)
    length = _length(feature, lambda activation: one.strength * activation, along=target)
    return (removed, Push(target.direction, length, intervention=number))


def _swap_target(one: Intervention, load: LoadDictionary, model: LanguageModel) -> DictionaryFeature:
    if one.to is None or one.to.feature.layer != one.feature.layer:
        raise ModelError(
            f"{one.feature.id} can only be swapped for a feature of its own layer, {one.feature.layer}."
        )
    return load_feature(one.to, load, model)


def _length(
    feature: DictionaryFeature,
    change: Callable[[Tensor], Tensor],
    *,
    along: DictionaryFeature | None = None,
) -> Length:
    """The length [n, 1] that a change of an activation has in the residual stream: of `along`'s (the feature
    itself unless given) by `change(activation of the feature)`.
    """
    changed = feature if along is None else along
    return lambda x, tokens: (change(feature.activation(x, tokens)) * changed.unit_length(x))[:, None]


def _mean_norm(one: Intervention, load: LoadDictionary) -> float:
    norm = load(one.checkpoint_path).mean_norm or one.mean_norm
    if norm is None:
        raise CheckpointError(
            f"Neither {one.checkpoint_path} (metadata.lexiscope.mean_norm) nor the index contains the "
            "layer's mean residual norm, the unit of strength. Its features can be clamped, scaled and "
            "ablated, but not added."
        )
    return norm


def _target(one: Intervention) -> float:
    if one.unit == "activation":
        return one.strength
    if not one.max_activation:
        raise ModelError(
            f"{one.feature.id} never fired on the indexed text, so it has no maximum. "
            "Give the strength as an activation (unit: activation)."
        )
    return one.strength * one.max_activation
