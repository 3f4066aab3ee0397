"""SASA: a feature is a subspace, a block of rows; the blocks with the largest norm of the code are active,
all rows of them with their sign, and the nuclear norm of the blocks' decoders lets a block keep to fewer
dimensions ("Subspace- Aware Sparse Autoencoders", 2026, arXiv 2606.06333, as in the authors' code).

Names, contexts and steering are of one direction. When training ends each block is rotated to the principal
axes of its decoder rows, the strongest first, which changes neither the reconstruction nor the choice of
blocks; a page shows an axis, and the axes of a block are neighbours by number.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lexiscope.adaptive_selection import Blocks
from lexiscope.dictionary import Dictionary
from lexiscope.sparse_code import SparseCode
from trainer.activations.passages import TrainingBatch
from trainer.architectures.base import Pass, Step
from trainer.architectures.topk import ENCODED, TopKArchitecture, TopKConfig
from trainer.errors import RecipeError
from trainer.initialise import Start


@dataclass(frozen=True, kw_only=True)
class SASAConfig(TopKConfig):
    name: str = "sasa"
    k: int = 32
    """Active rows a token: those of k / block blocks."""
    block: int = 4
    """Rows of a block; it divides k and the width."""
    nuclear: float = 1e-3
    """Weight of the mean over the blocks of the nuclear norm of their decoder rows."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._positive("block")
        self._not_negative("nuclear")
        if self.k % self.block:
            raise RecipeError(f"block is {self.block}: it must divide k, {self.k}.")

    def check(self, *, d_in: int, d_sae: int, embedding: tuple[int, ...]) -> None:
        super().check(d_in=d_in, d_sae=d_sae, embedding=embedding)
        if d_sae % self.block or self.block > d_in:
            raise RecipeError(
                f"block is {self.block}: it must divide the width, {d_sae:,}, and not be above {d_in}."
            )


class SASA(TopKArchitecture):
    name = "sasa"
    summary = "blocks of rows, each a subspace, of which a token takes the strongest"
    config_type = SASAConfig
    config: SASAConfig
    signed = True
    precise = True

    def initialise(self, start: Start) -> None:
        """As TopK, with orthogonal rows within a block, each on the side of its sample."""
        super().initialise(start)
        began = self.blocks("decoder")
        rows = torch.linalg.qr(began.transpose(1, 2)).Q.transpose(1, 2)
        rows = torch.where((rows * began).sum(-1, keepdim=True) < 0, -rows, rows)
        self.parameters["decoder"] = rows.flatten(0, 1).contiguous()
        if not self.transcoder:
            self.parameters["encoder"] = self.parameters["decoder"] * self.encoder_norm

    def blocks(self, name: str) -> Tensor:
        """[blocks, block, d] of a parameter."""
        return self.parameters[name].unflatten(0, (-1, self.config.block))

    def select(self, x: Tensor) -> SparseCode:
        p, chosen = self.parameters, self.selection()
        parts = [chosen.encode(torch.addmm(p["b_enc"], part, p["encoder"].T)) for part in x.split(ENCODED)]
        return SparseCode(*(torch.cat(columns) for columns in zip(*parts, strict=True)))

    def losses(self, batch: TrainingBatch, made: Pass, step: Step) -> dict[str, Tensor]:
        losses = super().losses(batch, made, step)
        losses["nuclear"] = self.config.nuclear * nuclear_norms(self.blocks("decoder")).mean()
        return losses

    def selection(self) -> Blocks:
        return Blocks(self.config.k, self.config.block)

    def dictionary(self) -> Dictionary:
        """In the principal axes of each block."""
        found = super().dictionary()
        size = (-1, self.config.block)
        turn, strength, axes = torch.linalg.svd(found.W_dec.unflatten(0, size), full_matrices=False)
        back = turn.transpose(1, 2)
        encoder = back @ found.W_enc.T.unflatten(0, size)
        return replace(
            found,
            W_enc=encoder.flatten(0, 1).T.contiguous(),
            b_enc=(back @ found.b_enc.unflatten(0, size)[..., None]).flatten(),
            W_dec=(strength[..., None] * axes).flatten(0, 1),
        )


def nuclear_norms(blocks: Tensor) -> Tensor:
    """[n] the sum of the singular values of each of blocks [n, r, d]; differentiable where some are 0."""
    gram = blocks @ blocks.transpose(1, 2)
    floor = 1e-8 * torch.eye(gram.shape[-1], device=gram.device)
    return torch.linalg.eigvalsh(gram + floor).clamp_min(0).sqrt().sum(-1)
