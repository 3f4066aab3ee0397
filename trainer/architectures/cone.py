"""TopK whose rows start at a sample of a token and stay in the cone around that token's anchor
(docs/method.md#cones): the token that the sample stands on, or where the anchors are mean states by the token
before or after it, that one.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from lexiscope.anchors import into_cones, stay_in_cones
from trainer import kernels
from trainer.activations.passages import TrainingBatch
from trainer.architectures.topk import TopKArchitecture, TopKConfig
from trainer.errors import RecipeError
from trainer.initialise import RELATED, Start


@dataclass(frozen=True, kw_only=True)
class ConeConfig(TopKConfig):
    name: str = "cone"
    dense_rank: int = 16
    cosine: float = 0.802
    """The cone: the cosine of a row to its assigned anchor is at least this after every step (0.8, and a
    margin for fp16 anchors).
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.cosine < 1:
            raise RecipeError(f"The cone's cosine is {self.cosine}: it must be between 0 and 1.")


class Cone(TopKArchitecture):
    name = "cone"
    summary = "TopK whose rows stay near the anchor of the token they start at"
    config_type = ConeConfig
    config: ConeConfig

    def initialise(self, start: Start) -> None:
        self.unit_anchors = F.normalize(self.anchors, dim=-1).to(self.device)
        super().initialise(start)

    def starting_samples(self, start: Start) -> Tensor:
        """Samples by token; each row is assigned the token of its sample."""
        tokens = start.related_tokens(self.config.anchors)
        samples = start.samples_by_token(tokens)
        self.buffers["assigned"] = tokens[samples].long().to(self.device)
        return samples

    @property
    def assigned(self) -> Tensor:
        return self.buffers["assigned"]

    def constrained(self, directions: Tensor, features: Tensor) -> Tensor:
        return into_cones(directions, self.unit_anchors[self.assigned[features]], self.config.cosine)

    def constrain_gradients(self) -> None:
        """Without a part that would push a row at the edge of its cone out of it."""
        super().constrain_gradients()
        decoder, gradient = self.parameters["decoder"], self.gradient("decoder")
        stay_in_cones(gradient, decoder, self.unit_anchors, self.assigned, self.config.cosine)

    def constrain_weights(self) -> None:
        """Unit norm, within the cones."""
        kernels.hold_rows(self.parameters["decoder"], self.unit_anchors, self.assigned, self.config.cosine)
        self._align()

    def restart(self, features: Tensor, samples: TrainingBatch) -> None:
        """A row takes the token of its new sample, where its anchor is of the token that a sample stands
        on.
        """
        if self.config.anchors not in RELATED:
            self.assigned[features] = samples.tokens.long().to(self.device)
        super().restart(features, samples)
