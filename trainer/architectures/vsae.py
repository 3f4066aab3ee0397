"""vSAE: a variational TopK dictionary. In training a pre-activation is drawn from a normal distribution
around its mean, whose variance a second linear map gives, and the KL divergence of these distributions from a
standard normal one is part of the loss; the k of largest magnitude reconstruct. Inference takes the means
("Analysis of Variational Sparse Autoencoders", 2025, as in the authors' code). That paper's result is
negative.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from lexiscope.sparse_code import SparseCode, abs_top_k
from trainer import sparse
from trainer.activations.passages import TrainingBatch
from trainer.architectures.base import Pass, Step
from trainer.architectures.topk import TopKArchitecture, TopKConfig
from trainer.initialise import Start

LOWEST, HIGHEST = -6.0, 2.0
"""Bounds of a logarithm of a variance."""


@dataclass(frozen=True, kw_only=True)
class VSAEConfig(TopKConfig):
    name: str = "vsae"
    divergence: float = 1e-3
    """Weight of the divergence, summed over the features, over half the input's dimensions: with 1 the loss
    is that of a variational autoencoder whose noise has variance 1.
    """
    warm_up: float = 0.1
    """Share of the steps over which that weight rises to its value."""
    log_variance: float = -2.0
    """Of every feature at the start."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._positive("warm_up")
        self._not_negative("divergence")


class VSAE(TopKArchitecture):
    name = "vsae"
    summary = "TopK of sampled pre-activations, with their divergence from a standard normal in the loss"
    config_type = VSAEConfig
    config: VSAEConfig
    feature_parameters = (*TopKArchitecture.feature_parameters, "variance", "b_variance")
    precise = True

    def initialise(self, start: Start) -> None:
        super().initialise(start)
        self.parameters["variance"] = torch.zeros(self.d_sae, start.d_in, device=self.device)
        level = torch.full((self.d_sae,), self.config.log_variance, device=self.device)
        self.parameters["b_variance"] = level

    def restart(self, features: Tensor, samples: TrainingBatch) -> None:
        super().restart(features, samples)
        self.parameters["variance"][features] = 0
        self.parameters["b_variance"][features] = self.config.log_variance

    def forward(self, x: Tensor) -> Pass:
        """With noise where a gradient is wanted. The noise follows from the batch, so that a resumed run
        draws the same.
        """
        p = self.parameters
        if not torch.is_grad_enabled():
            return super().forward(x)
        seed = int(x.detach().contiguous().view(torch.int32).sum())
        random = torch.Generator(self.device).manual_seed(seed)
        mean = torch.addmm(p["b_enc"], x, p["encoder"].T).relu()
        log_variance = torch.addmm(p["b_variance"], x, p["variance"].T).clamp(LOWEST, HIGHEST)
        noise = torch.empty_like(mean).normal_(generator=random)
        drawn = mean + (log_variance / 2).exp() * noise
        with torch.no_grad():
            indices = abs_top_k(drawn, self.config.k).indices
        code = SparseCode(drawn.gather(1, indices), indices)
        terms = mean.square() + log_variance.exp() - 1 - log_variance
        self._divergence = terms.sum() / 2 / len(x)
        sparse_part = sparse.decode(code, p["decoder"], unit_rows=True)
        return Pass(code, sparse_part + x @ p["dense_in"] @ p["dense_out"] + p["b_dec"])

    def losses(self, batch: TrainingBatch, made: Pass, step: Step) -> dict[str, Tensor]:
        losses = super().losses(batch, made, step)
        weight = self.config.divergence * min(1.0, step.progress / self.config.warm_up)
        losses["divergence"] = weight * self._divergence / (batch.x.shape[1] / 2)
        return losses
