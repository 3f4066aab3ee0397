"""SA-GSAE: a gated dictionary whose features fire on both sides of 0, so that one feature carries two
opposite concepts ("Sign-Aware Gated Sparse Autoencoders", 2026, arXiv 2605.28149, in its symmetric variant:
one radius for both sides).

A gate opens where |w · x| is above the feature's radius; the activation is w · x times a trained factor, with
its sign. The penalty is on what the gates exceed their radius by, and so does not shrink activations; the
open gates alone have to reconstruct too. As `gated`, the penalty's weight follows the number of active
features, which ends near k.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lexiscope.adaptive_selection import TwoSided
from lexiscope.dictionary import Dictionary
from lexiscope.sparse_code import SparseCode
from trainer import objectives, sparse
from trainer.activations.passages import TrainingBatch
from trainer.architectures.base import Pass, Step
from trainer.architectures.penalised import Penalised, PenalisedConfig
from trainer.errors import RecipeError
from trainer.initialise import Start


@dataclass(frozen=True, kw_only=True)
class SignedGatedConfig(PenalisedConfig):
    name: str = "sa-gsae"
    aux_k: int = 0
    sparsity: float = 1e-3
    """First weight of the penalty, the sum of a token's |gates|."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.aux_k:
            raise RecipeError(f"{self.name} has no AuxK, whose features have a bias: set aux_k=0.")
        if {"off_support", "l1_l2"} & objectives.term_weights(self.terms).keys():
            raise RecipeError(
                f"terms={self.terms} are of pre-activations with a bias: {self.name} has a radius in its "
                "place."
            )


class SignedGated(Penalised):
    name = "sa-gsae"
    summary = "gated, on both sides of 0: a feature has a positive and a negative pole"
    config_type = SignedGatedConfig
    config: SignedGatedConfig
    signed = True
    feature_parameters = (*Penalised.feature_parameters, "scale")

    def initialise(self, start: Start) -> None:
        """`b_enc` is the negative radius."""
        super().initialise(start)
        self.parameters["scale"] = torch.zeros(self.d_sae, device=self.device)

    def forward(self, x: Tensor) -> Pass:
        p = self.parameters
        zero = torch.zeros_like(p["b_enc"])
        with torch.no_grad():
            selected = sparse.above(x, p["encoder"], zero, -p["b_enc"], scratch=self._scratch, signed=True)
        linear = sparse.encode(x, p["encoder"], zero, selected)
        opened = selected.values != 0
        excess = (linear.values.abs() + sparse.gathered(p["b_enc"], linear.indices)) * opened
        self._gate = SparseCode(excess * selected.values.sign(), linear.indices)
        magnitude = linear.values * sparse.gathered(p["scale"].exp(), linear.indices)
        code = SparseCode(magnitude, linear.indices)
        sparse_part = sparse.decode(code, p["decoder"], unit_rows=True)
        return Pass(code, sparse_part + x @ p["dense_in"] @ p["dense_out"] + p["b_dec"])

    def losses(self, batch: TrainingBatch, made: Pass, step: Step) -> dict[str, Tensor]:
        """TopK's, the penalty, and the error with which the open gates alone reconstruct through a decoder
        that this term does not train.
        """
        p, losses = self.parameters, super().losses(batch, made, step)
        losses["sparsity"] = self.penalty(self._gate.values.abs().sum(), made, batch)
        rest = (batch.x @ p["dense_in"] @ p["dense_out"] + p["b_dec"]).detach()
        by_gates = sparse.decode(self._gate, p["decoder"].detach()) + rest
        losses["gates"] = objectives.mse(by_gates, batch.target)
        return losses

    def constrain_weights(self) -> None:
        """As `Penalised`; radii not below 0."""
        super().constrain_weights()
        self.parameters["b_enc"].clamp_(max=0)

    def restart(self, features: Tensor, samples: TrainingBatch) -> None:
        super().restart(features, samples)
        self.parameters["scale"][features] = 0

    def dictionary(self) -> Dictionary:
        """|w · x| > r is |w · x| e^s > r e^s."""
        p = {name: tensor.detach().cpu() for name, tensor in self.parameters.items()}
        scale = p["scale"].exp()
        return replace(
            super().dictionary(),
            W_enc=p["encoder"].T * scale,
            b_enc=torch.zeros_like(p["b_enc"]),
            selection=TwoSided(-p["b_enc"] * scale),
        )
