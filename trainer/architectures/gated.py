"""Gated: one linear map decides which features are active (the gate), a rescaled one how strongly (the
magnitude), so that the sparsity penalty on the gate does not shrink activations (arXiv 2404.16014).

The penalty's weight follows the number of active features, which ends near k. Inference folds the gate into a
threshold for each feature.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lexiscope import selection
from lexiscope.dictionary import Dictionary
from lexiscope.sparse_code import SparseCode
from trainer import objectives, sparse
from trainer.activations.passages import TrainingBatch
from trainer.architectures.base import Pass, Step
from trainer.architectures.penalised import Penalised, PenalisedConfig
from trainer.initialise import Start


@dataclass(frozen=True, kw_only=True)
class GatedConfig(PenalisedConfig):
    name: str = "gated"
    sparsity: float = 1e-3
    """First weight of the penalty, the sum of a token's positive gates."""


class Gated(Penalised):
    name = "gated"
    summary = "a gate decides which features fire, a rescaled copy how strongly"
    config_type = GatedConfig
    config: GatedConfig
    feature_parameters = (*Penalised.feature_parameters, "scale", "b_magnitude")

    def initialise(self, start: Start) -> None:
        """`b_enc` is the gate's bias."""
        super().initialise(start)
        self.parameters["scale"] = torch.zeros(self.d_sae, device=self.device)
        self.parameters["b_magnitude"] = torch.zeros(self.d_sae, device=self.device)

    def forward(self, x: Tensor) -> Pass:
        p = self.parameters
        with torch.no_grad():
            closed = torch.zeros_like(p["b_enc"])
            selected = sparse.above(x, p["encoder"], p["b_enc"], closed, scratch=self._scratch)
        gate, opened = sparse.encode(x, p["encoder"], p["b_enc"], selected), selected.values > 0
        linear = gate.values - sparse.gathered(p["b_enc"], gate.indices)
        scale = sparse.gathered(p["scale"].exp(), gate.indices)
        magnitude = linear * scale + sparse.gathered(p["b_magnitude"], gate.indices)
        code = SparseCode(magnitude.relu() * opened, gate.indices)
        self._gate = gate
        sparse_part = sparse.decode(code, p["decoder"], unit_rows=True)
        return Pass(code, sparse_part + x @ p["dense_in"] @ p["dense_out"] + p["b_dec"])

    def losses(self, batch: TrainingBatch, made: Pass, step: Step) -> dict[str, Tensor]:
        """TopK's, the penalty, and the error with which the open gates alone reconstruct through a decoder
        that this term does not train.
        """
        p, losses = self.parameters, super().losses(batch, made, step)
        losses["sparsity"] = self.penalty(self._gate.values.sum(), made, batch)
        rest = (batch.x @ p["dense_in"] @ p["dense_out"] + p["b_dec"]).detach()
        by_gates = sparse.decode(self._gate, p["decoder"].detach()) + rest
        losses["gates"] = objectives.mse(by_gates, batch.target)
        return losses

    def restart(self, features: Tensor, samples: TrainingBatch) -> None:
        super().restart(features, samples)
        self.parameters["scale"][features] = 0
        self.parameters["b_magnitude"][features] = 0

    def dictionary(self) -> Dictionary:
        """With magnitude m = w·x · e^s + b_m, the gate w·x + b_g > 0 is the threshold m > b_m − e^s b_g."""
        p = {name: tensor.detach().cpu() for name, tensor in self.parameters.items()}
        scale = p["scale"].exp()
        threshold = p["b_magnitude"] - scale * p["b_enc"]
        return replace(
            super().dictionary(),
            W_enc=p["encoder"].T * scale,
            b_enc=p["b_magnitude"],
            selection=selection.Threshold(threshold),
        )
