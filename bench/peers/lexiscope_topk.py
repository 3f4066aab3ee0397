"""Lexiscope's own trainer, as `lexiscope train` steps it; `recipe` is plain (the default), vasae or matched."""

import inspect
import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[2]))
import trainer
from trainer import fitting
from trainer.loop import Training

NAME = "Lexiscope"
PARTS = {
    "encoder": [(fitting.Fit, "_encode")],
    "top-k": [(fitting, "top_k"), (fitting, "encode_top_k")],
    "decode": [(fitting, "gather_sum")],
    "gradients": [(fitting.Fit, "_code_gradient"), (fitting, "firing_order"), (fitting.FiringOrder, "sum")]
    if hasattr(fitting, "FiringOrder")
    else [(fitting.Fit, "_code_gradient"), (fitting, "firing_order")],
    "cones, norms": [(fitting.Fit, "hold")],
}
"""What each part of a step is made of; names the trainer does not have are passed over."""


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
    ) -> None:
        changes = {"k": k, "batch": batch} | ({"learning_rate": rate} if rate else {})
        chosen = replace(trainer.recipe(recipe), **changes)
        given = {"device": device} if "device" in inspect.signature(fitting.Fit).parameters else {}
        if device != "cpu" and not given:
            raise SystemExit("Lexiscope's Fit does not take a device yet: nothing to time on a GPU.")
        if embedding is None:  # only the anchored recipes and names look at it
            embedding = torch.randn(int(tokens.max()) + 1, x.shape[1])
        self.x, self.tokens = x, tokens
        self.fit = fitting.Fit(chosen, x, tokens, embedding=embedding, d_sae=d_sae, **given)
        self.training = Training(self.fit, steps=steps, every=10**9)
        self.rate = chosen.learning_rate

    def step(self, rows: Tensor) -> None:
        """A turn of the training loop, schedule and restarts included."""
        self.training._train(self.x, self.tokens, rows)

    def bytes_of_state(self) -> int:
        """Weights and Adam's two moments."""
        return sum(3 * tensor.numel() * tensor.element_size() for tensor in self.fit.weights.tensors())

    def dictionary(self) -> dict[str, Tensor]:
        found = self.fit.fitted().dictionary
        return {name: getattr(found, name).detach().float().cpu().contiguous() for name in ("W_enc", "b_enc", "W_dec", "b_dec")}


def reconstruct(trainer: Trainer, x: Tensor) -> Tensor:
    return trainer.fit.fitted().dictionary.reconstruct(x)
