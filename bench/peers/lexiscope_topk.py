"""Lexiscope's own trainer, as `lexiscope train` steps it; `recipe` is plain (the default), vasae or matched."""

import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[2]))
import trainer
from trainer import fitting, kernels
from trainer.loop import Training

NAME = "Lexiscope"
PARTS = {
    "encoder": [(fitting.Fit, "_encode")],
    "top-k": [(kernels, "top_k"), (kernels, "select_top_k")],
    "decode": [(kernels, "decode")],
    "gradients": [(fitting.Fit, "_row_gradients")],
    "AuxK": [(fitting.Fit, "_revive")],
    "cones, norms": [(fitting.Fit, "hold"), (fitting, "stay_in_cones")],
}
"""What each part of a step is made of, without the parts inside it; names the trainer does not have are
passed over.
"""


class Trainer:
    def __init__(
        self,
        x: Tensor,
        *,
        tokens: Tensor,
        d_sae: int,
        k: int,
        batch: int,
        steps: int,
        recipe: str = "plain",
        embedding: Tensor | None = None,
        rate: float | None = None,
        device: str = "cpu",
        silent: str = "0",
    ) -> None:
        """`silent` is a share of rows to count as long silent before every step, so that AuxK has its work
        from the first.
        """
        changes = {"k": k, "batch": batch} | ({"learning_rate": rate} if rate else {})
        chosen = replace(trainer.recipe(recipe), **changes)
        if embedding is None:  # only the anchored recipes and names look at it
            embedding = torch.randn(int(tokens.max()) + 1, x.shape[1])
        self.x, self.tokens = x, tokens
        self.fit = fitting.Fit(chosen, x, tokens, embedding=embedding, d_sae=d_sae, device=device)
        self.training = Training(self.fit, steps=steps, every=10**9)
        self.rate = chosen.learning_rate
        self.silent = torch.randperm(d_sae, device=device)[: round(float(silent) * d_sae)]

    def step(self, rows: Tensor) -> None:
        """A turn of the training loop, schedule and restarts included."""
        self.fit.silent[self.silent] = self.fit.recipe.aux_after + 1
        self.training._train(self.x, self.tokens, rows)

    def bytes_of_state(self) -> int:
        """Weights and Adam's two moments."""
        return sum(3 * tensor.numel() * tensor.element_size() for tensor in self.fit.weights.tensors())

    def dictionary(self) -> dict[str, Tensor]:
        found = self.fit.fitted().dictionary
        return {
            name: getattr(found, name).detach().float().cpu().contiguous()
            for name in ("W_enc", "b_enc", "W_dec", "b_dec")
        }


def reconstruct(trainer: Trainer, x: Tensor) -> Tensor:
    return trainer.fit.fitted().dictionary.reconstruct(x)
