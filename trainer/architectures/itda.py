"""ITDA: a dictionary of activations, found without gradients (Leask et al. 2025, arXiv 2505.17769). An
activation that the rows so far reconstruct badly becomes a row; codes are found by matching pursuit.

The paper takes one token after another. Here a step adds the worst of its batch, so many that the width is
used up after the share `until` of the steps, and none that a row added in the same step would reconstruct.
Its orthogonal matching pursuit is plain matching pursuit here, whose activations are not negative.
"""

from dataclasses import dataclass
from math import ceil
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from lexiscope.dictionary import Dictionary
from lexiscope.selection import Pursuit
from lexiscope.sparse_code import SparseCode, gather_sum
from trainer import objectives
from trainer.activations.passages import TrainingBatch
from trainer.architectures.base import Architecture, Config, Gradients, Pass, Step
from trainer.architectures.topk import ENCODED
from trainer.errors import RecipeError
from trainer.initialise import Start


@dataclass(frozen=True, kw_only=True)
class ITDAConfig(Config):
    whole_batch: ClassVar[bool] = True
    name: str = "itda"
    k: int = 32
    """Rows that matching pursuit takes for a token."""
    threshold: float = 0.1
    """Least squared error, as a share of the activation's square, that makes a token a row."""
    until: float = 0.8
    """Share of the steps after which the width may be used up."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._positive("k", "threshold", "until")
        if self.restarts or self.terms or self.lookup == "trained":
            raise RecipeError(
                "itda has no gradients: restarts, terms and a trained look-up have no meaning in it."
            )

    def check(self, *, d_in: int, d_sae: int, embedding: tuple[int, ...]) -> None:
        if self.k > d_sae:
            raise RecipeError(f"k is {self.k}: it must be between 1 and the dictionary's width, {d_sae}.")

    def check_other_target(self, what: str) -> None:
        raise RecipeError(f"itda reconstructs activations by themselves: it cannot be {what}.")


class ITDA(Architecture):
    name = "itda"
    summary = "rows are activations that were badly reconstructed; matching pursuit, no gradients"
    config_type = ITDAConfig
    config: ITDAConfig

    def initialise(self, start: Start) -> None:
        """No rows; the first step adds k at least, so that there is something to pursue."""
        self.parameters = {"decoder": torch.zeros(self.d_sae, start.d_out, device=self.device)}
        self.buffers["filled"] = torch.zeros((), dtype=torch.long, device=self.device)

    def forward(self, x: Tensor) -> Pass:
        rows = self.parameters["decoder"].detach()
        chosen = Pursuit(self.config.k)
        parts = [
            chosen.encode(part @ rows.T, lambda found: gather_sum(found, rows) @ rows.T)
            for part in x.split(ENCODED)
        ]
        code = SparseCode(*(torch.cat(columns) for columns in zip(*parts, strict=True)))
        return Pass(code, gather_sum(code, rows))

    def losses(self, batch: TrainingBatch, made: Pass, step: Step) -> dict[str, Tensor]:
        return {"mse": objectives.mse(made.output, batch.target)}

    def gradients(self, batch: TrainingBatch, step: Step) -> Gradients:
        """None; the rows are added here."""
        made = self.forward(batch.x)
        squares = (made.output - batch.target).square().sum(-1)
        share = squares / batch.x.square().sum(-1).clamp_min(1e-12)
        due = ceil(self.d_sae * min(1.0, step.progress / self.config.until))
        self._add(batch.x, share, max(due, self.config.k) - int(self.buffers["filled"]))
        return Gradients({"mse": objectives.mse(made.output, batch.target)}, made.code, squares)

    def _add(self, x: Tensor, share: Tensor, n: int) -> None:
        """Rows of up to n of x [m, d], worst first; share [m] is what is missed of each."""
        rows, threshold = self.parameters["decoder"], self.config.threshold
        worst = share.argsort(descending=True, stable=True)
        worst = worst[share[worst] > threshold][: 4 * max(n, 0)]
        unit, chosen = F.normalize(x[worst], dim=-1), list[int]()
        near = (unit @ unit.T).square() > 1 - threshold  # one such row alone would be enough for both
        for candidate in range(len(worst)):
            if len(chosen) < n and not bool(near[candidate, chosen].any()):
                chosen.append(candidate)
        filled = int(self.buffers["filled"])
        rows.data[filled : filled + len(chosen)] = unit[chosen]
        self.buffers["filled"] += len(chosen)

    def dictionary(self) -> Dictionary:
        rows = self.parameters["decoder"].detach().cpu()
        return Dictionary(
            W_enc=rows.T.contiguous(),
            b_enc=torch.zeros(len(rows)),
            W_dec=rows,
            b_dec=torch.zeros(rows.shape[1]),
            selection=Pursuit(self.config.k),
        )
