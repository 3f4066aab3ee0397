"""Matryoshka BatchTopK: nested dictionaries, each of the first features of the next; every one of them has to
reconstruct by itself, so that the first features are the general ones (arXiv 2503.17547).
"""

from dataclasses import dataclass
from itertools import pairwise

import torch

from lexiscope.sparse_code import SparseCode
from trainer import objectives, sparse
from trainer.activations.passages import TrainingBatch
from trainer.architectures.base import Pass, Step
from trainer.architectures.batchtopk import BatchTopK, BatchTopKConfig
from trainer.errors import RecipeError


@dataclass(frozen=True, kw_only=True)
class MatryoshkaConfig(BatchTopKConfig):
    name: str = "matryoshka"
    widths: str = ""
    """Widths of the inner dictionaries, ascending: N,N,…; a sixteenth, a quarter and half of all features
    unless given.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self.inner_widths(1 << 30)

    def inner_widths(self, d_sae: int) -> list[int]:
        """Raises RecipeError where they are not ascending numbers below d_sae."""
        if not self.widths:
            return sorted({max(1, d_sae // part) for part in (16, 4, 2)} - {d_sae})
        try:
            widths = [int(width) for width in self.widths.split(",")]
        except ValueError:
            widths = [0]
        if any(low >= high for low, high in pairwise([0, *widths, d_sae])):
            raise RecipeError(f"widths is '{self.widths}': write ascending numbers from 1, below {d_sae:,}.")
        return widths

    def check(self, *, d_in: int, d_sae: int, embedding: tuple[int, ...]) -> None:
        super().check(d_in=d_in, d_sae=d_sae, embedding=embedding)
        self.inner_widths(d_sae)


class Matryoshka(BatchTopK):
    name = "matryoshka"
    summary = "BatchTopK with nested dictionaries, each of which reconstructs"
    config_type = MatryoshkaConfig
    config: MatryoshkaConfig

    def losses(self, batch: TrainingBatch, made: Pass, step: Step) -> dict[str, torch.Tensor]:
        """The mean over all nested dictionaries of their mean squared errors, by width."""
        widths = self.config.inner_widths(self.d_sae)
        losses = super().losses(batch, made, step)
        share = 1 / (len(widths) + 1)
        output, values, indices = made.output, made.code.values, made.code.indices
        for low, high in reversed(list(pairwise([*widths, self.d_sae]))):
            outer = (indices >= low) & (indices < high)
            part = SparseCode(values * outer, indices)
            output = output - sparse.decode(part, self.parameters["decoder"], unit_rows=True)
            losses[f"mse_{low}"] = share * objectives.mse(output, batch.target)
        return {f"mse_{self.d_sae}": share * losses.pop("mse"), **losses}
