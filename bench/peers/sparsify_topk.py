"""EleutherAI sparsify's SparseCoder, stepped as its Trainer steps it, with its own optimisers.

Settings: its default Signum (sign descent, momentum 0.95, schedule-free, lr 5e-3 / sqrt(F / 16384)) or, asked
for by name, its Adam (lr 2e-4 / sqrt(F / 16384)); loss FVU, unit decoder rows, gradient along a row removed,
b_dec at the first batch's mean, AuxK off. Its Adam warms up over 1,000 steps, more than a short run has; here
over a twentieth of the steps.
"""

import importlib.metadata

import torch
from schedulefree import ScheduleFreeWrapper
from sparsify import SparseCoder, SparseCoderConfig
from sparsify.sign_sgd import SignSGD
from torch import Tensor

NAME = f"sparsify {importlib.metadata.version('eai-sparsify')} TopK"


class Trainer:
    def __init__(
        self,
        x: Tensor,
        *,
        d_sae: int,
        k: int,
        batch: int,
        steps: int,
        rate: float | None = None,
        device: str = "cpu",
        optimiser: str = "signum",
    ) -> None:
        self.x, self.coder = (
            x,
            SparseCoder(
                x.shape[1], SparseCoderConfig(num_latents=d_sae, k=k), device=device, dtype=torch.float32
            ),
        )
        self.coder.b_dec.data = x[:batch].float().mean(0)
        root = (d_sae / 2**14) ** 0.5
        self.schedule = None
        if optimiser == "signum":
            self.rate = rate or 5e-3 / root
            self.optimiser = ScheduleFreeWrapper(
                SignSGD(self.coder.parameters(), lr=self.rate), momentum=0.95
            )
            self.optimiser.train()
        else:
            from transformers import get_linear_schedule_with_warmup

            self.rate = rate or 2e-4 / root
            self.optimiser = torch.optim.Adam(self.coder.parameters(), lr=self.rate)
            self.schedule = get_linear_schedule_with_warmup(self.optimiser, max(1, steps // 20), steps)
        self.silent = torch.zeros(d_sae, dtype=torch.long, device=device)

    def step(self, rows: Tensor) -> None:
        """What its Trainer does with a batch x[rows] in fp32 (bf16 autocast on CUDA is the coder's own)."""
        x = self.x[rows].float()
        self.coder.set_decoder_norm_to_unit_norm()
        out = self.coder(x=x, y=x, dead_mask=None, total_variance=(x - x.mean(0)).pow(2).sum())
        fired = torch.zeros_like(self.silent, dtype=torch.bool)
        fired[out.latent_indices.flatten()] = True
        float(out.fvu.detach())  # it logs this every step
        out.fvu.backward()
        self.coder.remove_gradient_parallel_to_decoder_directions()
        self.optimiser.step()
        self.optimiser.zero_grad()
        if self.schedule is not None:
            self.schedule.step()
        self.silent += len(x)
        self.silent[fired] = 0

    def dictionary(self) -> dict[str, Tensor]:
        """W_enc, b_enc, W_dec, b_dec in raw space, b_dec's subtraction from the input folded into b_enc; the
        averaged weights.
        """
        if self.schedule is None:
            self.optimiser.eval()
        weight, bias, decoder, b_dec = (
            p.detach().float().cpu()
            for p in (self.coder.encoder.weight, self.coder.encoder.bias, self.coder.W_dec, self.coder.b_dec)
        )
        return {
            "W_enc": weight.T.contiguous(),
            "b_enc": bias - weight @ b_dec,
            "W_dec": decoder.clone(),
            "b_dec": b_dec.clone(),
        }


def reconstruct(trainer: Trainer, x: Tensor) -> Tensor:
    """What the coder itself makes of raw x [n, d] with its averaged weights: the check of `dictionary`."""
    if trainer.schedule is None:
        trainer.optimiser.eval()
    with torch.no_grad():
        return trainer.coder(x).sae_out
