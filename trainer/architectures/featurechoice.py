"""Feature Choice: the budget of n · k activations of a batch goes to the features in equal parts, each of
which takes the tokens it is largest on (Ayonrinde 2024, arXiv 2411.02124); what does not divide goes to some
in turn. Every feature fires, and a token takes as many as it is given. Inference has no batch: each feature
has a threshold, the running mean of its smallest activation in a batch. (With the whole budget free, Mutual
Choice, it is BatchTopK.)
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lexiscope import selection
from lexiscope.sparse_code import SparseCode
from trainer import sparse
from trainer.architectures.topk import TopKArchitecture, TopKConfig
from trainer.errors import RecipeError
from trainer.initialise import Start

FEATURES = 4096
"""Features whose pre-activations on a batch are held at once."""


@dataclass(frozen=True, kw_only=True)
class FeatureChoiceConfig(TopKConfig):
    whole_batch: ClassVar[bool] = True
    name: str = "featurechoice"
    k: int = 32
    """Active features a token, on average over a batch."""
    threshold_rate: float = 0.05
    """How much one batch moves a running threshold, once it is the mean of 1 / threshold_rate batches."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.threshold_rate <= 1:
            raise RecipeError(f"threshold_rate is {self.threshold_rate}: it must be above 0 and not above 1.")


class FeatureChoice(TopKArchitecture):
    name = "featurechoice"
    summary = "every feature takes as many tokens of a batch as any other; inference by thresholds"
    config_type = FeatureChoiceConfig
    config: FeatureChoiceConfig
    by_batch = True
    precise = True

    def initialise(self, start: Start) -> None:
        super().initialise(start)
        self.buffers["threshold"] = torch.zeros(self.d_sae, device=self.device)
        self.buffers["batches"] = torch.zeros((), device=self.device)
        self._smallest = self.buffers["threshold"]

    def select(self, x: Tensor) -> SparseCode:
        p = self.parameters
        each, more = divmod(len(x) * self.config.k, self.d_sae)
        number = torch.arange(self.d_sae, device=self.device)
        begin = self.buffers["batches"].long() * more
        in_turn = (number + begin) % self.d_sae < more  # these take one more
        most = min(each + (more > 0), len(x))
        values, tokens = [], []
        for part in torch.arange(self.d_sae, device=self.device).split(FEATURES):
            rows = slice(int(part[0]), int(part[-1]) + 1)
            pre = torch.addmm(p["b_enc"][rows], x, p["encoder"][rows].T)
            found = pre.topk(most, dim=0)
            values.append(found.values.relu())
            tokens.append(found.indices)
        value, token = torch.cat(values, 1), torch.cat(tokens, 1)  # [most, d_sae]
        self._smallest = value[-1]
        if most > each:
            self._smallest = value[-1].where(in_turn, value[max(each - 1, 0)])
            value[-1].masked_fill_(~in_turn, 0)
        feature = number.expand_as(token)
        order = token.reshape(-1).argsort(stable=True)
        order = order[value.reshape(-1)[order] > 0]
        token, feature, value = (flat.reshape(-1)[order] for flat in (token, feature, value))
        return sparse.padded(token, feature, value, len(x))

    def constrain_weights(self) -> None:
        """Unit norm; then the running thresholds take in the batch just trained on."""
        super().constrain_weights()
        self.buffers["batches"] += 1
        rate = torch.clamp(1 / self.buffers["batches"], min=self.config.threshold_rate)
        self.buffers["threshold"].lerp_(self.ranks.mean(self._smallest.clone()), rate)

    def selection(self) -> selection.Selection:
        return selection.Threshold(self.buffers["threshold"].cpu().clone())
