"""SAELens's trainers as they stand: its training SAE of an architecture, stepped by its SAETrainer.

Its own defaults but for the options: Adam, lr 3e-4 constant, gradient norm clipped at 1, AuxK with
coefficient 1 for rows silent for 1,000 steps (topk, batchtopk, matryoshka), `expected_average_only_in`, the
scaling its guides use, so that lr and clipping meet inputs of the norm they expect. It trains no transcoders.
"""

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import torch
from sae_lens import (
    BatchTopKTrainingSAE,
    BatchTopKTrainingSAEConfig,
    GatedTrainingSAE,
    GatedTrainingSAEConfig,
    JumpReLUTrainingSAE,
    JumpReLUTrainingSAEConfig,
    MatryoshkaBatchTopKTrainingSAE,
    MatryoshkaBatchTopKTrainingSAEConfig,
    StandardTrainingSAE,
    StandardTrainingSAEConfig,
    TopKTrainingSAE,
    TopKTrainingSAEConfig,
    __version__,
)
from sae_lens.config import LoggingConfig, SAETrainerConfig
from sae_lens.training.sae_trainer import SAETrainer
from torch import Tensor

NAME = f"SAELens {__version__}"
RATE = 3e-4
ARCHITECTURES: dict[str, tuple[Any, Any]] = {
    "topk": (TopKTrainingSAE, TopKTrainingSAEConfig),
    "batchtopk": (BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig),
    "jumprelu": (JumpReLUTrainingSAE, JumpReLUTrainingSAEConfig),
    "gated": (GatedTrainingSAE, GatedTrainingSAEConfig),
    "matryoshka": (MatryoshkaBatchTopKTrainingSAE, MatryoshkaBatchTopKTrainingSAEConfig),
    "standard": (StandardTrainingSAE, StandardTrainingSAEConfig),
}


class Trainer:
    def __init__(
        self,
        x: Tensor,
        *,
        d_sae: int,
        k: int,
        batch: int,
        steps: int,
        rate: float = RATE,
        device: str = "cpu",
        silent: str = "0",
        architecture: str = "topk",
        schedule: str = "constant",
        dead_after: str = "1000",
        **options: str,
    ) -> None:
        """`options` are settings of the architecture's config. `silent` is a share of rows to count as dead
        before every step, so that AuxK has its work from the first; `dead_after` the steps after which it
        calls a row dead; the schedule `warmup-decay` is Lexiscope's: warm-up over the first twentieth of the
        steps, decay over the last third. On CUDA its autocast to bf16 is on.
        """
        self.x, self.batch = x, batch
        sae_type, config_type = ARCHITECTURES[architecture]
        given: dict[str, Any] = {name: _value(text) for name, text in options.items()}
        if "k" in {field.name for field in fields(config_type)}:
            given["k"] = k
        if architecture == "matryoshka":
            given["matryoshka_widths"] = [d_sae // 16, d_sae // 4, d_sae // 2, d_sae]
        sae = sae_type(
            config_type(
                d_in=x.shape[1],
                d_sae=d_sae,
                device=device,
                normalize_activations="expected_average_only_in",
                **given,
            )
        )
        falls = schedule == "warmup-decay"
        config = SAETrainerConfig(
            total_training_samples=steps * batch,
            train_batch_size_samples=batch,
            lr=rate,
            lr_end=rate / 10,
            lr_warm_up_steps=steps // 20 if falls else 0,
            lr_decay_steps=steps // 3 if falls else 0,
            dead_feature_window=int(dead_after),
            device=device,
            autocast=device != "cpu",
            logger=LoggingConfig(log_to_wandb=False),
        )
        self.trainer = SAETrainer(config, sae, self._stream())
        self.silent = torch.randperm(d_sae, device=device)[: round(float(silent) * d_sae)]
        self.trainer.activation_scaler.estimate_scaling_factor(
            x.shape[1], self._stream(), min(16, len(x) // batch)
        )

    def _stream(self) -> Iterator[Tensor]:
        while True:
            for part in self.x.split(self.batch):
                yield part.float()

    def step(self, rows: Tensor) -> None:
        """One turn of SAETrainer.fit's loop, on x[rows]."""
        self.trainer.n_forward_passes_since_fired[self.silent] = self.trainer.cfg.dead_feature_window + 1
        self.trainer.maybe_reset_sparsity()
        self.trainer.step(self.x[rows].float())
        self.trainer.n_training_steps += 1

    def dictionary(self) -> dict[str, Tensor]:
        """W_enc, b_enc, W_dec, b_dec and, unless it selects by TopK, threshold, in raw space: its scale, its
        decoder norms and its gate folded in.
        """
        sae = self.trainer.sae
        scale = self.trainer.activation_scaler.scaling_factor
        state = {name: tensor.detach().clone() for name, tensor in sae.state_dict().items()}
        sae.process_state_dict_for_saving_inference(state)
        found = {name: tensor.detach().float().cpu() for name, tensor in state.items()}
        biases = ["b_enc"]
        if "b_gate" in found:
            biases = ["b_gate", "b_mag"]
        if sae.cfg.apply_b_dec_to_input:
            shift = found["b_dec"] @ found["W_enc"]
            for name in biases:
                found[name] = found[name] - (shift * found["r_mag"].exp() if name == "b_mag" else shift)
        if "b_gate" in found:  # w·x + b_gate > 0 where e^r w·x + b_mag > b_mag − e^r b_gate
            gain = found["r_mag"].exp()
            found["threshold"] = found["b_mag"] - gain * found["b_gate"]
            found["W_enc"], found["b_enc"] = found["W_enc"] * gain, found["b_mag"]
        if isinstance(sae, StandardTrainingSAE):
            found["threshold"] = torch.zeros_like(found["b_enc"])
        weights = {
            "W_enc": found["W_enc"] * scale,
            "b_enc": found["b_enc"],
            "W_dec": found["W_dec"] / scale,
            "b_dec": found["b_dec"] / scale,
        }
        return weights | ({"threshold": found["threshold"]} if "threshold" in found else {})


def _value(text: str) -> Any:
    """A number, True, False, or the text itself."""
    if text in ("True", "False"):
        return text == "True"
    try:
        return float(text)
    except ValueError:
        return text


def reconstruct(trainer: Trainer, x: Tensor) -> Tensor:
    """What the trainer itself makes of raw x [n, d]: the check of `dictionary`, for those that select by
    TopK.
    """
    scaler = trainer.trainer.activation_scaler
    with torch.no_grad():
        return scaler.unscale(trainer.trainer.sae(scaler.scale(x)))
