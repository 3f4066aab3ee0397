"""The paper's own algorithm, `paper-soft`, from trainer.architectures.paper. One step without the anchor
term, and the term by itself.

The term costs O(F·V·d): at full shape most of a minute on two cores. It works through the features in chunks,
so it is timed on one and on three of them, and the rest is added at the difference. Ours finds the nearest
anchors without a graph and differentiates their cosines alone; `anchor=autograd` times the same value as the
authors' code computes it, through max and into the embedding.
"""

import time
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import trainer
from trainer.activations.passages import LayerActivations, Rows
from trainer.architectures import Start, build
from trainer.objectives import anchor_pull
from trainer.objectives.losses import CHUNK
from trainer.step import Training

NAME = "paper-soft"


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
        embedding: Tensor,
        device: str = "cpu",
        anchor: str = "nearest",
    ) -> None:
        self.device, self.autograd = torch.device(device), anchor == "autograd"
        config: Any = replace(trainer.recipe("paper-soft"), k=k, anchor_every=10**9)  # type: ignore[call-arg]
        start = Start(x, tokens, embedding=embedding, d_sae=d_sae, device=device, centre=False)
        with torch.no_grad():
            self.architecture = build(config, start)
        self.anchors = embedding.to(device).float()
        nothing = torch.zeros(1, dtype=torch.long)
        self.activations = LayerActivations(x, tokens, nothing, nothing, None)
        self.training = Training(self.architecture, start.random, steps=steps, every=10**9)

    def step(self, rows: Tensor) -> None:
        """Everything but the anchor term."""
        self.training.train_on(self.activations, Rows(rows))

    def extra(self) -> dict[str, float | str]:
        """Seconds (wall, CPU) that the anchor term adds to a step."""
        self._anchor_seconds(1)  # to warm up
        (wall, cpu), (wall_of_three, cpu_of_three) = self._anchor_seconds(1), self._anchor_seconds(3)
        further = self.architecture.d_sae / CHUNK - 1
        return {
            "wall": wall + further * (wall_of_three - wall) / 2,
            "cpu": cpu + further * (cpu_of_three - cpu) / 2,
            "note": f"anchor term timed on {CHUNK:,} and {3 * CHUNK:,} of {self.architecture.d_sae:,} "
            "features, the rest in proportion",
        }

    def _anchor_seconds(self, chunks: int) -> tuple[float, float]:
        features = (
            self.architecture.parameters["decoder"].detach()[: chunks * CHUNK].contiguous().requires_grad_()
        )
        anchors = self.anchors.requires_grad_(self.autograd)
        _synchronise(self.device)
        wall, cpu = time.perf_counter(), time.process_time()
        (
            through_autograd(features, anchors)
            if self.autograd
            else anchor_pull(features, anchors, "nearest")
        ).mean().backward()
        _synchronise(self.device)
        anchors.grad = None
        return time.perf_counter() - wall, time.process_time() - cpu


def through_autograd(directions: Tensor, anchors: Tensor) -> Tensor:
    """[n] the largest cosine of each direction [n, d], with a gradient for the anchors too, which nothing
    uses.
    """
    unit = F.normalize(anchors, dim=-1)
    return torch.cat(
        [(F.normalize(part, dim=-1) @ unit.T).max(dim=-1).values for part in directions.split(CHUNK)]
    )


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
