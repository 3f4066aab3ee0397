"""Lexiscope's own trainer, as `lexiscope train` steps it; `recipe` is plain unless given."""

from functools import partial

import torch
from torch import Tensor

import trainer
from trainer import kernels
from trainer.activations.passages import LayerActivations, Rows
from trainer.architectures import Architecture, Start, build, cone, topk
from trainer.step import Training

NAME = "Lexiscope"
PARTS = {
    "encoder": [(topk.TopKArchitecture, "select")],
    "top-k": [(kernels, "top_k"), (kernels, "select_top_k")],
    "decode": [(kernels, "decode")],
    "gradients": [(topk.TopKArchitecture, "gradients")],
    "AuxK": [(topk.TopKArchitecture, "_add_aux_gradients")],
    "cones, norms": [
        (topk.TopKArchitecture, "constrain_weights"),
        (cone.Cone, "constrain_weights"),
        (cone, "stay_in_cones"),
    ],
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
        gradients: str = "by hand",
        **settings: str,
    ) -> None:
        """`settings` are of the recipe. `silent` is a share of features that do not fire and count as long
        silent, so that AuxK has its work from the first step; with `gradients=autograd` the default step
        replaces the one by hand.
        """
        given = settings | {"k": k, "batch": batch} | ({"learning_rate": rate} if rate else {})
        (config,) = trainer.configured([recipe], [f"{name}={value}" for name, value in given.items()])
        if embedding is None:  # only the anchored recipes and names use it
            embedding = torch.randn(int(tokens.max()) + 1, x.shape[1])
        nothing = torch.zeros(1, dtype=torch.long)
        self.activations = LayerActivations(x, tokens, nothing, nothing, None)
        start = Start(x, tokens, embedding=embedding, d_sae=d_sae, device=device)
        with torch.no_grad():
            architecture = build(config, start)
        if gradients == "autograd":
            vars(architecture)["gradients"] = partial(Architecture.gradients, architecture)
        self.training = Training(architecture, start.random, steps=steps, every=10**9)
        self.rate = config.learning_rate
        self.silent = torch.randperm(d_sae, device=device)[: round(float(silent) * d_sae)]
        with torch.no_grad():
            architecture.parameters["encoder"][self.silent] *= 0.05  # among the k largest no more

    @property
    def optimiser(self) -> torch.optim.Optimizer:
        return self.training.optimiser

    def step(self, rows: Tensor) -> None:
        """A turn of the training loop, schedule and restarts included."""
        architecture = self.training.architecture
        if len(self.silent):
            architecture.silent[self.silent] = architecture.config.aux_after + 1
        self.training.train_on(self.activations, Rows(rows))

    def bytes_of_state(self) -> int:
        """Weights and Adam's two moments."""
        tensors = self.training.architecture.parameters.values()
        return sum(3 * tensor.numel() * tensor.element_size() for tensor in tensors)

    def bytes_beside(self) -> dict[str, int]:
        """What else is in memory from step to step."""
        architecture = self.training.architecture
        parts = {"gradients": list(architecture.parameters.values()), "anchors": [architecture.anchors]}
        return {name: sum(tensor.nbytes for tensor in tensors) for name, tensors in parts.items()}

    def dictionary(self) -> dict[str, Tensor]:
        """W_enc, b_enc, W_dec, b_dec and, unless it selects by TopK, threshold, in raw space."""
        found = self.training.dictionary().tensors()
        return {name: tensor.detach().float().cpu().contiguous() for name, tensor in found.items()}


def reconstruct(trainer: Trainer, x: Tensor) -> Tensor:
    return trainer.training.dictionary().reconstruct(x)
