"""Interventions as patches of the residual stream. The dictionary's error term is kept: x' = x + Δ; position
0 (BOS) is never touched.

Every Δ is a length along the unit direction d of the feature that is pushed; z(x) is a feature's activation
in the code of x:
    add         strength · mean_norm · d                     mean_norm: the layer's mean residual norm, position 0 excluded
    orthogonal  the same, then x' is given the norm of x
    clamp       (target − z(x)) · w(x)                        w(x): what one unit of the feature's activation adds to x's reconstruction
    scale       (factor − 1) · z(x) · w(x)
    ablate      −z(x) · w(x)
    swap A → B  −z_A(x) · w_A(x), and strength · z_A(x) · w_B(x)
All interventions of one layer read the same x, so their order does not matter; those of a later layer read
what earlier ones left. A control is the same plan with other directions pushed, at the same lengths. A length
of 0 (strength 0, or factor 1 of a scale) is no change at all: a plan without changes is the unsteered model.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lexiscope.dictionary import Dictionary
from lexiscope.errors import CheckpointError, ModelError
from lexiscope.language_model import LanguageModel, Patch
from server.live.messages import Intervention, Located

ENCODE_POSITIONS = 256
"""positions encoded at once: bounds the [positions, d_sae] pre-activations of a long prompt"""


class Loaded(NamedTuple):
    """A dictionary in memory."""

    dictionary: Dictionary
    mean_norm: float | None
    """the layer's mean residual norm; None for a foreign dictionary that does not say"""


class Cancelled(Exception):
    """The one who asked has gone."""


Load = Callable[[str], Loaded]


@dataclass(frozen=True)
class Feature:
    """One feature, ready to be read and written."""

    dictionary: Dictionary
    index: int
    alone: Dictionary
    """the same dictionary with this feature only: its pre-activation costs one row instead of d_sae"""

    def activation(self, x: Tensor) -> Tensor:
        """[n] the activation in the code of each x [n, d_model]; the whole code is made only where the
        feature could be in it.
        """
        if self.dictionary.selection.independent:
            code = self.alone.encode(x)
            return code.values.sum(-1)
        activation = torch.zeros(len(x), device=x.device)
        for rows in (self.alone.pre_activations(x)[:, 0] > 0).nonzero().squeeze(1).split(ENCODE_POSITIONS):
            code = self.dictionary.encode(x[rows])
            activation[rows] = torch.where(code.indices == self.index, code.values, 0).sum(-1)
        return activation

    def unit(self, x: Tensor) -> Tensor:
        """[n] the length that one unit of its activation adds to the reconstruction of each x."""
        ones = torch.ones(len(x), device=x.device)
        return self.dictionary.writes(x, torch.full((len(x),), self.index, device=x.device), ones).norm(
            dim=-1
        )

    @property
    def direction(self) -> Tensor:
        return F.normalize(self.dictionary.W_dec[self.index], dim=0)


@dataclass(frozen=True)
class Push:
    """One direction and how far it is pushed."""

    direction: Tensor
    """[d_model], of norm 1"""
    length: Callable[[Tensor], Tensor | float]
    """x [n, d_model] → [n, 1], or one number for every x"""
    keep_norm: bool = False
    named: int | None = None
    """the intervention whose control pushes another direction; None for what a swap takes away"""

    def delta(self, x: Tensor) -> Tensor:
        moved = self.length(x) * self.direction
        if not self.keep_norm:
            return moved.expand_as(x)
        ratio = x.norm(dim=-1, keepdim=True) / (x + moved).norm(dim=-1, keepdim=True).clamp_min(1e-12)
        return x * (ratio - 1) + moved * ratio


@dataclass(frozen=True)
class Change:
    """What one intervention does at its layer, and at which positions."""

    pushes: tuple[Push, ...]
    where: str = "all"
    positions: frozenset[int] | None = None
    when: tuple[int, Feature] | None = None
    """the layer and feature whose firing it waits for"""

    def at(self, first: int, n: int, prompt: int) -> list[bool] | None:
        """Which of the n positions from `first` on (0 is BOS) are meant; None: all."""
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
class Plan:
    """What is done to one row: {layer: its changes}. `prompt` counts the prompt's tokens without BOS."""

    layers: Mapping[int, Sequence[Change]] = field(default_factory=dict)
    prompt: int = 0

    @property
    def steers(self) -> bool:
        """False where the row is the unsteered one: no intervention can change anything."""
        return bool(self.layers)

    def watched(self) -> set[int]:
        """The layers that must be patched: changed there, or read there for a condition."""
        return {
            *self.layers,
            *(change.when[0] for changes in self.layers.values() for change in changes if change.when),
        }

    def pushing(self, directions: Sequence[Tensor]) -> "Plan":
        """The same changes along other directions, one an intervention, scaled to norm 1."""

        def turned(push: Push) -> Push:
            return (
                push
                if push.named is None
                else replace(push, direction=F.normalize(directions[push.named], dim=0))
            )

        return replace(
            self,
            layers={
                layer: [replace(change, pushes=tuple(map(turned, change.pushes))) for change in changes]
                for layer, changes in self.layers.items()
            },
        )


def plan(interventions: Sequence[Intervention], load: Load, model: LanguageModel, *, prompt: int) -> Plan:
    """The plan of one steered row. Raises ModelError and CheckpointError for what does not fit the model or
    the dictionary.
    """
    model.check_layers([asked.feature.layer for asked in interventions])
    layers: dict[int, list[Change]] = {}
    ablated: set[tuple[object, ...]] = set()
    for number, asked in enumerate(interventions):
        same = (asked.checkpoint_path, asked.feature.index, asked.where, str(asked.positions), asked.when)
        if asked.mode == "ablate":
            if same in ablated:
                continue
            ablated.add(same)
        if asked.when is not None and asked.when.feature.layer > asked.feature.layer:
            raise ModelError(
                f"{asked.feature.id} cannot wait for {asked.when.feature.id}: layer {asked.when.feature.layer} comes after layer "
                f"{asked.feature.layer}. Take a condition of the same or an earlier layer."
            )
        when = None if asked.when is None else (asked.when.feature.layer, feature(asked.when, load, model))
        pushes = _pushes(asked, number, load, model)
        positions = None if asked.positions is None else frozenset(asked.positions)
        if pushes:
            change = Change(pushes, asked.where, positions, when)
            layers.setdefault(asked.feature.layer, []).append(change)
    return Plan(layers, prompt)


def feature(asked: Located, load: Load, model: LanguageModel) -> Feature:
    """Raises ModelError and CheckpointError: another width, an index out of range."""
    dictionary, index = load(asked.checkpoint_path).dictionary, asked.feature.index
    if dictionary.d_in != model.d_model:
        raise ModelError(
            f"{asked.feature.id} reads {dictionary.d_in} dimensions, but {model.id} has {model.d_model}."
        )
    if not 0 <= index < dictionary.d_sae:
        raise CheckpointError(
            f"{asked.feature.id}: {asked.checkpoint_path} has {dictionary.d_sae:,} features; index the run again."
        )
    return Feature(dictionary, index, dictionary.of_feature(index))


def _pushes(asked: Intervention, number: int, load: Load, model: LanguageModel) -> tuple[Push, ...]:
    """The pushes of one intervention; those whose length is 0 everywhere are left out."""
    own = feature(asked, load, model)
    strength = asked.strength

    def along(read: Callable[[Tensor], Tensor], writer: Feature) -> Callable[[Tensor], Tensor]:
        return lambda x: (read(x) * writer.unit(x))[:, None]

    match asked.mode:
        case "add" | "orthogonal":
            length = strength * _mean_norm(asked, load)
            keep_norm = asked.mode == "orthogonal"
            return (Push(own.direction, lambda x: length, keep_norm, number),) if length else ()
        case "clamp":
            target = _target(asked)
            return (Push(own.direction, along(lambda x: target - own.activation(x), own), named=number),)
        case "scale":
            if strength == 1:
                return ()
            return (
                Push(own.direction, along(lambda x: (strength - 1) * own.activation(x), own), named=number),
            )
        case "ablate":
            return (Push(own.direction, along(lambda x: -own.activation(x), own), named=number),)
        case "swap":
            if asked.to is None or asked.to.feature.layer != asked.feature.layer:
                raise ModelError(
                    f"{asked.feature.id} can be swapped only for a feature of its own layer, {asked.feature.layer}."
                )
            other = feature(asked.to, load, model)
            taken = Push(own.direction, along(lambda x: -own.activation(x), own))
            given = Push(other.direction, along(lambda x: strength * own.activation(x), other), named=number)
            return (taken, given) if strength else (taken,)


def _mean_norm(asked: Intervention, load: Load) -> float:
    norm = load(asked.checkpoint_path).mean_norm or asked.mean_norm
    if norm is None:
        raise CheckpointError(
            f"{asked.checkpoint_path} does not give its layer's mean residual norm (metadata.lexiscope.mean_norm), and the index "
            "does not either: without the unit of strength its features can be clamped, scaled and ablated, not added."
        )
    return norm


def _target(asked: Intervention) -> float:
    if asked.unit == "activation":
        return asked.strength
    if not asked.max_activation:
        raise ModelError(
            f"{asked.feature.id} never fired on the indexed text, so it has no maximum: give its activation (unit: activation)."
        )
    return asked.strength * asked.max_activation


def patches(
    plans: Sequence[Plan | None], first: Sequence[int], *, cancelled: Callable[[], bool] = lambda: False
) -> dict[int, Patch]:
    """{layer: patch} for one forward pass over rows with these plans (None: left alone).

    `first` is each row's position of the pass's first column. A patch raises Cancelled when `cancelled` says
    so.
    """
    fires: dict[tuple[int, int], Tensor] = {}

    def patch_of(layer: int) -> Patch:
        def patch(residual: Tensor) -> Tensor:
            if cancelled():
                raise Cancelled
            steered = None
            for row, done in enumerate(plans):
                if done is None:
                    continue
                skip = 1 if first[row] == 0 else 0
                x = residual[row, skip:].float()
                if not len(x):
                    continue
                _look(done, layer, x, row, fires)
                delta = _delta(done, layer, x, first[row] + skip, row, fires)
                if delta is not None:
                    steered = residual.clone() if steered is None else steered
                    steered[row, skip:] = (x + delta).to(residual.dtype)
            return residual if steered is None else steered

        return patch

    return {
        layer: patch_of(layer)
        for layer in sorted({layer for done in plans if done is not None for layer in done.watched()})
    }


def _look(done: Plan, layer: int, x: Tensor, row: int, fires: dict[tuple[int, int], Tensor]) -> None:
    """Note where the features that later or present changes wait for fire."""
    for changes in done.layers.values():
        for change in changes:
            if change.when is not None and change.when[0] == layer:
                fires[row, id(change)] = change.when[1].activation(x) > 0


def _delta(
    done: Plan, layer: int, x: Tensor, first: int, row: int, fires: dict[tuple[int, int], Tensor]
) -> Tensor | None:
    total = None
    for change in done.layers.get(layer, ()):
        here = change.at(first, len(x), done.prompt)
        meant = None if here is None else torch.tensor(here, device=x.device)
        if change.when is not None:
            meant = fires[row, id(change)] if meant is None else meant & fires[row, id(change)]
        if meant is not None and not meant.any():
            continue
        for push in change.pushes:
            delta = push.delta(x)
            delta = delta if meant is None else torch.where(meant[:, None], delta, 0)
            total = delta if total is None else total + delta
    return total
