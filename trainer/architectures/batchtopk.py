"""BatchTopK: the n · k largest pre-activations of a batch of n tokens, so that a token takes as many
features as it needs (arXiv 2412.06410). Inference has no batch: it uses one threshold, the running mean of
the smallest activation that a batch selected.
"""

from dataclasses import dataclass

import torch

from lexiscope import selection
from lexiscope.sparse_code import SparseCode
from trainer import kernels
from trainer.architectures.topk import TopKArchitecture, TopKConfig
from trainer.errors import RecipeError
from trainer.initialise import Start

CANDIDATES = 4
"""A token is first given this many times k candidates; more where one of them would have taken more."""


@dataclass(frozen=True, kw_only=True)
class BatchTopKConfig(TopKConfig):
    name: str = "batchtopk"
    k: int = 32
    """Active features a token, on average over a batch."""
    threshold_rate: float = 0.05
    """How much one batch moves the running threshold, once it is the mean of 1 / threshold_rate batches."""
    aux_after: int = 15
    """As TopK's. A silent row has to pass the threshold of a whole batch, not of its token: with TopK's own
    weight and patience, AuxK wakes none.
    """
    aux_weight: float = 1 / 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.threshold_rate <= 1:
            raise RecipeError(f"threshold_rate is {self.threshold_rate}: it must be above 0 and not above 1.")


class BatchTopK(TopKArchitecture):
    name = "batchtopk"
    summary = "TopK over a whole batch; inference by one threshold"
    config_type = BatchTopKConfig
    config: BatchTopKConfig
    by_batch = True

    def initialise(self, start: Start) -> None:
        super().initialise(start)
        self.buffers["threshold"] = torch.zeros((), device=self.device)
        self.buffers["batches"] = torch.zeros((), device=self.device)
        self._smallest = self.buffers["threshold"]

    def select(self, x: torch.Tensor) -> SparseCode:
        """Exact: the candidates are the largest of each token, and there are more of them until no token has
        its last one selected.
        """
        p, wanted = self.parameters, CANDIDATES * self.config.k
        while True:
            wanted = min(wanted, self.d_sae)
            code = kernels.encode_top_k(
                x, p["encoder"], p["b_enc"], wanted, dtype=self.matmul_dtype, scratch=self._scratch
            )
            everywhere = self.ranks.gathered(code.values)
            kept = min(self.config.k * len(everywhere), everywhere.numel())
            smallest = everywhere.reshape(-1).topk(kept, sorted=False).values.min()
            if wanted == self.d_sae or not bool((everywhere[:, -1] >= smallest).any() and smallest > 0):
                break
            wanted *= 2
        self._smallest = smallest
        active = (code.values >= smallest) & (code.values > 0)
        width = max(1, int(active.sum(-1).max()))
        return SparseCode((code.values * active)[:, :width], code.indices[:, :width])

    def constrain_weights(self) -> None:
        """Unit norm; then the running threshold takes in the batch just trained on."""
        super().constrain_weights()
        self.buffers["batches"] += 1
        rate = torch.clamp(1 / self.buffers["batches"], min=self.config.threshold_rate)
        self.buffers["threshold"].lerp_(self._smallest.to(self.device), rate)

    def selection(self) -> selection.Selection:
        return selection.Threshold(self.buffers["threshold"].cpu().expand(self.d_sae).clone())
