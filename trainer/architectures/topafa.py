"""top-AFA: a token takes its largest pre-activations until the norm of the code comes nearest to the norm of
the input, so that no k is chosen; the squared difference that is left is a term of the loss ("Evaluating and
Designing Sparse Autoencoders by Approximating Quasi-Orthogonality", arXiv 2503.24277, as in the authors'
code).
"""

from dataclasses import dataclass

from torch import Tensor

from lexiscope import selection
from lexiscope.adaptive_selection import NormMatch, norm_matched
from lexiscope.sparse_code import SparseCode
from trainer import kernels, objectives
from trainer.activations.passages import TrainingBatch
from trainer.architectures.base import Pass, Step
from trainer.architectures.topk import TopKArchitecture, TopKConfig
from trainer.errors import RecipeError


@dataclass(frozen=True, kw_only=True)
class TopAFAConfig(TopKConfig):
    name: str = "top-afa"
    k: int = 256
    """Active features a token, at most; how many there are follows from the input."""
    afa: float = 1 / 32
    """Weight of the squared difference of the norms, over the input's dimensions."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._not_negative("afa")
        if self.dense_rank:
            raise RecipeError(f"{self.name} matches the norm of the whole input: set dense_rank=0.")

    def check(self, *, d_in: int, d_sae: int, embedding: tuple[int, ...]) -> None:
        """A width below k bounds the code by itself."""

    def check_other_target(self, what: str) -> None:
        raise RecipeError(f"{self.name} matches the norm of what it reconstructs: it cannot be {what}.")


class TopAFA(TopKArchitecture):
    name = "top-afa"
    summary = "TopK whose k follows the norm of the input"
    config_type = TopAFAConfig
    config: TopAFAConfig

    def select(self, x: Tensor) -> SparseCode:
        p, dtype = self.parameters, self.matmul_dtype
        most = min(self.config.k, self.d_sae)
        wide = kernels.encode_top_k(x, p["encoder"], p["b_enc"], most, dtype=dtype, scratch=self._scratch)
        return norm_matched(wide, (x - p["b_dec"]).norm(dim=-1))

    def losses(self, batch: TrainingBatch, made: Pass, step: Step) -> dict[str, Tensor]:
        losses = super().losses(batch, made, step)
        difference = objectives.TERMS["norm_match"](self, batch, made, step)
        return losses | {"afa": self.config.afa * difference / batch.x.shape[1]}

    def selection(self) -> selection.Selection:
        return NormMatch(min(self.config.k, self.d_sae))
