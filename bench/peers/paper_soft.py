"""The paper's own algorithm, `paper-soft`, from trainer.paper. One step without the anchor term, and the term by itself.

The term costs O(F·V·d): at full shape a step of minutes on two cores. It is timed on `FRACTION` of the features and scaled by their
number, to which it is proportional (it works through the features in chunks). Our version finds the nearest anchors without a graph
and differentiates their cosines alone, about a third of what the authors' autograd does: the ratio printed is the smaller one.
"""

import sys
import time
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[2]))
from trainer.paper import CHUNK, PaperSAE, _Progress, anchor_scores, paper_recipe, paper_step

NAME = "paper-soft, anchor every step"
FEATURES = CHUNK
"""Features the anchor term is timed on."""


class Trainer:
    def __init__(
        self, x: Tensor, *, tokens: Tensor, d_sae: int, k: int, batch: int, steps: int, embedding: Tensor, device: str = "cpu"
    ) -> None:
        self.x, self.device = x, torch.device(device)
        self.recipe, self.anchors = paper_recipe("paper-soft", k=k, anchor_every=10**9), embedding.to(device).float()
        self.sae = PaperSAE(self.recipe, x.shape[1], d_sae, self.anchors).to(device)
        self.optimiser = torch.optim.Adam(self.sae.parameters(), lr=self.recipe.learning_rate)
        self.progress = _Progress(d_sae, self.device, lambda line: None)

    def step(self, rows: Tensor) -> None:
        """Everything but the anchor term."""
        self.progress.step += 1
        paper_step(self.recipe, self.sae, self.optimiser, self.x[rows].float(), self.anchors, self.progress)

    def extra(self) -> dict[str, float | str]:
        """Seconds (wall, CPU) that the anchor term adds to a step, from FEATURES of the features."""
        features = self.sae.directions.detach()[:FEATURES].contiguous().requires_grad_()
        _synchronise(self.device)
        wall, cpu = time.perf_counter(), time.process_time()
        anchor_scores(features, self.anchors, "nearest").mean().backward()
        _synchronise(self.device)
        times = len(self.sae.directions) / len(features)
        return {
            "wall": (time.perf_counter() - wall) * times,
            "cpu": (time.process_time() - cpu) * times,
            "note": f"anchor term timed on {len(features):,} of {len(self.sae.directions):,} features and scaled by {times:.1f}",
        }


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
