"""MFR, mutual feature regularisation: several TopK dictionaries are trained side by side on the same batches,
each from samples of its own, with a penalty on features that no other has, one minus the mean largest cosine
between their decoder rows, both ways (Marks et al. 2024, arXiv 2411.01220). A feature that several find is
more likely one of the data.

The first is the result; the others are trained only beside it. The paper's restarts of features that do not
fire are ours, for the first alone.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer import kernels, objectives, sparse
from trainer.activations.passages import TrainingBatch
from trainer.architectures.base import Pass, Step
from trainer.architectures.topk import TopKArchitecture, TopKConfig
from trainer.initialise import Start


@dataclass(frozen=True, kw_only=True)
class MFRConfig(TopKConfig):
    name: str = "mfr"
    peers: int = 1
    """Dictionaries trained beside the one that is kept."""
    mutual: float = 0.1
    """Weight of the penalty."""
    rows: int = 1024
    """Rows that a step compares with all of the other dictionary, drawn anew."""
    warm_up: float = 0.1
    """Share of the steps over which that weight rises to its value."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._positive("peers", "rows", "warm_up")
        self._not_negative("mutual")


class MFR(TopKArchitecture):
    name = "mfr"
    summary = "TopK trained beside others, with a penalty on features that the others lack"
    config_type = MFRConfig
    config: MFRConfig

    def initialise(self, start: Start) -> None:
        """The first as TopK, whatever peers it has; each peer at samples drawn after those of the first."""
        super().initialise(start)
        parameters, norm, drawn = self.parameters, self.encoder_norm, start.random.get_state()
        for peer in range(self.config.peers):
            super().initialise(start)
            own = ("encoder", "b_enc", "decoder", "b_dec")
            parameters |= {f"{name}_{peer}": self.parameters[name] for name in own}
        self.parameters, self.encoder_norm = parameters, norm
        start.random.set_state(drawn)

    def losses(self, batch: TrainingBatch, made: Pass, step: Step) -> dict[str, Tensor]:
        """TopK's, the peers' errors, and the penalty, mean over all pairs. The peers are trained beside the
        first's dense path and look-up, which they do not move.
        """
        losses, config, p = super().losses(batch, made, step), self.config, self.parameters
        x, target = batch.x.detach(), batch.target.detach()
        rest = target - (x @ p["dense_in"] @ p["dense_out"]).detach()
        for peer in range(config.peers):
            losses[f"peer_{peer}"] = objectives.mse(self._peer_output(x, peer), rest)
        if config.mutual:
            weight = config.mutual * min(1.0, step.progress / config.warm_up)
            losses["mutual"] = weight * (1 - self._agreement(step))
        return losses

    def _peer_output(self, x: Tensor, peer: int) -> Tensor:
        """[n, d] a peer's reconstruction, without the dense path."""
        p, dtype = self.parameters, self.matmul_dtype
        encoder, bias, decoder = (p[f"{name}_{peer}"] for name in ("encoder", "b_enc", "decoder"))
        with torch.no_grad():
            selected = kernels.encode_top_k(
                x, encoder, bias, self.config.k, dtype=dtype, scratch=self._scratch
            )
        code = sparse.encode(x, encoder, bias, selected)
        return sparse.decode(code, decoder, unit_rows=True) + p[f"b_dec_{peer}"]

    def _agreement(self, step: Step) -> Tensor:
        """The mean largest cosine of a row to those of another dictionary, over some rows of each."""
        random = torch.Generator().manual_seed(step.number)
        picked = torch.randperm(self.d_sae, generator=random)[: self.config.rows].to(self.device)
        names = ["decoder", *(f"decoder_{peer}" for peer in range(self.config.peers))]
        each = [F.normalize(self.parameters[name], dim=-1) for name in names]
        pairs = [(one, other) for one in each for other in each if one is not other]
        return torch.stack([mean_largest_cosine(one[picked], other) for one, other in pairs]).mean()

    def constrain_weights(self) -> None:
        super().constrain_weights()
        for peer in range(self.config.peers):
            kernels.hold_rows(self.parameters[f"decoder_{peer}"])


def mean_largest_cosine(rows: Tensor, others: Tensor) -> Tensor:
    """The mean over rows [m, d] of the largest cosine to one of others [n, d], all of norm 1. Which is
    nearest needs no gradient.
    """
    with torch.no_grad():
        nearest = (rows @ others.T).argmax(-1)
    return (rows * others[nearest]).sum(-1).mean()
