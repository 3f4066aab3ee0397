"""SAELens's TopK trainer as it stands: its TopKTrainingSAE with AuxK and its SAETrainer.step, its own
defaults.

Settings: lr 3e-4 constant, Adam, gradient norm clipped at 1, aux coefficient 1 (rows silent for 1,000 steps),
decoder norm rescaling, and `expected_average_only_in`, the scaling its guides use, so that lr and clipping
meet inputs of the norm they expect.
"""

from collections.abc import Iterator

import torch
from sae_lens import TopKTrainingSAE, TopKTrainingSAEConfig, __version__
from sae_lens.config import LoggingConfig, SAETrainerConfig
from sae_lens.training.sae_trainer import SAETrainer
from torch import Tensor

NAME = f"SAELens {__version__} TopK"
RATE = 3e-4


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
        sparse: bool = False,
        silent: str = "0",
    ) -> None:
        """`sparse` is its option use_sparse_activations; on CUDA its autocast to bf16 is on, which that
        option cannot be used with.

        `silent` is a share of rows to count as dead before every step, so that AuxK has its work from the
        first.
        """
        self.x, self.batch = x, batch
        sae = TopKTrainingSAE(
            TopKTrainingSAEConfig(
                d_in=x.shape[1],
                d_sae=d_sae,
                k=k,
                device=device,
                normalize_activations="expected_average_only_in",
                use_sparse_activations=sparse,
            )
        )
        config = SAETrainerConfig(
            total_training_samples=steps * batch,
            train_batch_size_samples=batch,
            lr=rate,
            lr_end=rate / 10,
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
        """W_enc, b_enc, W_dec, b_dec in raw space: its scale folded in, decoder norms folded into the code as
        it does when saving.
        """
        sae = self.trainer.sae
        scale = self.trainer.activation_scaler.scaling_factor
        state = {name: tensor.detach().clone() for name, tensor in sae.state_dict().items()}
        sae.process_state_dict_for_saving_inference(state)
        weights = {name: tensor.detach().float().cpu() for name, tensor in state.items()}
        if sae.cfg.apply_b_dec_to_input:
            weights["b_enc"] = weights["b_enc"] - weights["b_dec"] @ weights["W_enc"]
        return {
            "W_enc": weights["W_enc"] * scale,
            "b_enc": weights["b_enc"],
            "W_dec": weights["W_dec"] / scale,
            "b_dec": weights["b_dec"] / scale,
        }


def reconstruct(trainer: Trainer, x: Tensor) -> Tensor:
    """What the trainer itself makes of raw x [n, d]: the check of `dictionary`."""
    scaler = trainer.trainer.activation_scaler
    with torch.no_grad():
        return scaler.unscale(trainer.trainer.sae(scaler.scale(x)))
