"""Terms that run the language model on the reconstruction, for recipes with batch_of=passages: what the
dictionary changes in the model, not in the residual stream alone (Braun et al. 2024, arXiv 2405.12241).
"""

from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lexiscope.language_model import Patch
from trainer.errors import RecipeError

if TYPE_CHECKING:
    from lexiscope.language_model import LanguageModel
    from trainer.activations.passages import TrainingBatch, WholePassages
    from trainer.architectures.base import Architecture, Pass, Step


class PatchedRun(NamedTuple):
    """The model with the reconstruction in place of the residual stream at one layer, and without."""

    divergence: Tensor
    """[n] KL(default ‖ patched) at each position of the batch, nats"""
    later: dict[int, tuple[Tensor, Tensor]]
    """{layer: (default, patched)}, each [n, d], of the residual stream after each later layer"""


def kl(architecture: "Architecture", batch: "TrainingBatch", made: "Pass", step: "Step") -> Tensor:
    """Mean KL divergence of the patched model's output from the model's own, nats a position."""
    return run_patched(architecture, batch, made).divergence.mean()


def downstream(architecture: "Architecture", batch: "TrainingBatch", made: "Pass", step: "Step") -> Tensor:
    """Mean over the later layers of their mean squared error over the variance of their residual stream."""
    return later_error(run_patched(architecture, batch, made))


def later_error(run: PatchedRun) -> Tensor:
    """Of a run at a layer that is not the last: mean over later layers of squared error over variance."""
    errors = [
        (patched - default).square().sum() / (default - default.mean(0)).square().sum().clamp_min(1e-12)
        for default, patched in run.later.values()
    ]
    if not errors:
        raise RecipeError("No layer comes after this one, so there is no downstream error; use kl alone.")
    return torch.stack(errors).mean()


def loss_gradient(architecture: "Architecture", batch: "TrainingBatch") -> Tensor:
    """[n, d] the gradient of the model's own next-token losses, summed over each passage, at the activations
    of the batch, in scaled space. Raises RecipeError as `run_patched`.
    """
    model, layer, passages = _whole_passages(architecture, batch)
    with torch.enable_grad():
        x = architecture.restore(batch.x.detach(), batch.tokens).requires_grad_()

        def patch(residual: Tensor) -> Tensor:
            places = passages.places[..., None].to(residual.device)
            return residual.masked_scatter(places, x.to(residual.dtype))

        tokens, places = passages.tokens.to(model.device), passages.places.to(model.device)
        logits = model.differentiable_logits(tokens, {layer: patch})
        following = places[:, 1:]  # the last position of a passage has nothing to predict
        losses = F.cross_entropy(logits[:, :-1][following], tokens[:, 1:][following], reduction="sum")
        (gradient,) = torch.autograd.grad(losses, x)
    return gradient.to(architecture.device) / architecture.centring.scale


def _whole_passages(
    architecture: "Architecture", batch: "TrainingBatch"
) -> tuple["LanguageModel", int, "WholePassages"]:
    """What runs on the batch; raises RecipeError without whole passages, or for a transcoder."""
    model, layer, passages = architecture.language_model, architecture.writes, batch.passages
    if model is None or passages is None or not isinstance(layer, int):
        raise RecipeError(
            f"{architecture.config.name} runs the language model on whole passages of a residual stream: set "
            "batch_of=passages, and train no transcoder."
        )
    return model, layer, passages


def run_patched(architecture: "Architecture", batch: "TrainingBatch", made: "Pass") -> PatchedRun:
    """Differentiable in the reconstruction. Raises RecipeError without whole passages, or for a
    transcoder.
    """
    model, layer, passages = _whole_passages(architecture, batch)
    rebuilt = architecture.restore(made.output, batch.tokens)

    def patch(residual: Tensor) -> Tensor:
        places = passages.places[..., None].to(residual.device)
        return residual.masked_scatter(places, rebuilt.to(residual.dtype))

    with torch.no_grad():
        default, streams = _run(model, passages, layer, None)
    patched, moved = _run(model, passages, layer, patch)
    divergence = F.kl_div(patched, default, log_target=True, reduction="none").sum(-1)
    return PatchedRun(divergence, {each: (streams[each], moved[each]) for each in streams})


def _run(
    model: "LanguageModel", passages: "WholePassages", layer: int, patch: Patch | None
) -> tuple[Tensor, dict[int, Tensor]]:
    """Log-probabilities [n, vocab] at the batch's positions, and {later layer: residual stream [n, d]}, with
    `patch` at `layer` in an autograd graph, or without either.
    """
    tokens, places = passages.tokens.to(model.device), passages.places.to(model.device)
    streams: dict[int, Tensor] = {}

    def record(later: int) -> Patch:
        def keep(residual: Tensor) -> Tensor:
            streams[later] = residual[places].clone()
            return residual

        return keep

    records: dict[int, Patch] = {later: record(later) for later in range(layer + 1, model.n_layers)}
    if patch is None:
        logits = model.logits(tokens, records).clone()
        streams = {later: stream.clone() for later, stream in streams.items()}  # out of inference mode
    else:
        logits = model.differentiable_logits(tokens, {layer: patch, **records})
    return logits[places].log_softmax(-1), streams
