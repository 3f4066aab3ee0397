"""Sparsemax: cross-attention of an activation over a dictionary of concepts, whose rows give the keys and the
values; the active features are the support of sparsemax over the scores, and so as many as the token needs
("Improving Sparse Autoencoder with Dynamic Attention", 2026, arXiv 2604.14925, as in the authors' code).

Keys (encoder rows) and values (decoder rows) are two linear maps of the concepts. As in that code, sparsemax
chooses the features and the scores are their activations. There each input is scaled to norm 1; here inputs
have norm √d on average. The scale of the scores decides how many features are active: it follows their
number, which ends near k; with control=0 it stays 1 / √d, the paper's.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lexiscope.adaptive_selection import Sparsemax
from lexiscope.dictionary import Dictionary
from lexiscope.sparse_code import SparseCode
from trainer import objectives, sparse
from trainer.activations.passages import TrainingBatch
from trainer.architectures.base import Pass, Step
from trainer.architectures.topk import ENCODED, TopKArchitecture, TopKConfig
from trainer.errors import RecipeError
from trainer.initialise import Start
from trainer.objectives import SilentRows

SAMPLE, HALVINGS = 64, 12
"""Tokens, and steps of the search, for the first scale."""


@dataclass(frozen=True, kw_only=True)
class SparsemaxConfig(TopKConfig):
    name: str = "sparsemax"
    k: int = 32
    """Active features a token that training aims at, on average."""
    control: float = 0.05
    """How fast the scores' scale follows the number of active features; 0 keeps 1 / √d."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._not_negative("control")
        if self.terms or self.aligned:
            raise RecipeError(f"{self.name} derives its rows from concepts: it has no terms and no aligned.")

    def check_other_target(self, what: str) -> None:
        raise RecipeError(f"{self.name} has concepts in one space: it cannot be {what}.")


class SparsemaxAttention(TopKArchitecture):
    name = "sparsemax"
    summary = "cross-attention over concepts: the support of sparsemax is active"
    config_type = SparsemaxConfig
    config: SparsemaxConfig
    feature_parameters = ("concepts", "b_enc")
    precise = True

    def initialise(self, start: Start) -> None:
        """Concepts at the samples that rows start at, both maps at the identity, and a scale with which k
        features are active on a sample.
        """
        super().initialise(start)
        concepts, reads = self.parameters.pop("decoder"), self.parameters.pop("encoder")
        self.parameters["concepts"] = concepts
        eye = torch.eye(start.d_in, device=self.device)
        self.parameters["keys"], self.parameters["values"] = eye * self.encoder_norm, eye.clone()
        self.buffers["scale"] = torch.tensor(start.d_in**-0.5, device=self.device)
        self._active = torch.tensor(float(self.config.k))
        if self.config.control:
            self._find_scale(start, reads)

    def _find_scale(self, start: Start, reads: Tensor) -> None:
        kept = start.centring.kept
        sample = kept[torch.randperm(len(kept), generator=start.random)[:SAMPLE]]
        pre = start.batch(sample).to(self.device) @ reads.T
        low, high = 1e-2, 1e2
        for _ in range(HALVINGS):
            scale = (low * high) ** 0.5
            active = float((Sparsemax(scale).encode(pre).values != 0).sum()) / len(pre)
            low, high = (scale, high) if active > self.config.k else (low, scale)
        self.buffers["scale"].fill_(high)

    def rows(self) -> tuple[Tensor, Tensor]:
        """Keys and values [d_sae, d]; values have norm 1."""
        p = self.parameters
        return p["concepts"] @ p["keys"], F.normalize(p["concepts"] @ p["values"], dim=-1)

    def forward(self, x: Tensor) -> Pass:
        p = self.parameters
        self._keys, self._values = self.rows()
        with torch.no_grad():
            selected = self._selected(x)
        code = sparse.encode(x, self._keys, p["b_enc"], selected)
        sparse_part = sparse.decode(code, self._values)
        return Pass(code, sparse_part + x @ p["dense_in"] @ p["dense_out"] + p["b_dec"])

    def _selected(self, x: Tensor) -> SparseCode:
        chosen, keys, bias = self.selection(), self._keys.detach(), self.parameters["b_enc"]
        parts = [chosen.encode(torch.addmm(bias, part, keys.T)) for part in x.split(ENCODED)]
        width = max(part.values.shape[1] for part in parts)
        values, indices = (
            torch.cat([F.pad(each, (0, width - each.shape[1])) for each in columns])
            for columns in zip(*parts, strict=True)
        )
        return SparseCode(values, indices)

    def losses(self, batch: TrainingBatch, made: Pass, step: Step) -> dict[str, Tensor]:
        """Mean squared error, and AuxK where features are silent."""
        self._active = (made.code.values.detach() != 0).sum() / len(batch.x)
        losses = {"mse": objectives.mse(made.output, batch.target)}
        silent = self._silent_features(made.code)
        if len(silent):
            bias = self.parameters["b_enc"][silent]
            rows = SilentRows(self._keys[silent], bias, self._values[silent])
            losses["aux_k"] = self._aux_loss((batch.target - made.output).detach(), batch.x, rows)
        return losses

    def constrain_weights(self) -> None:
        """The scale follows the number of active features."""
        excess = (self.ranks.mean(self._active.clone()) / self.config.k - 1).clamp(-1, 1)
        self.buffers["scale"] *= 1 + self.config.control * excess.to(self.device)

    def restart(self, features: Tensor, samples: TrainingBatch) -> None:
        read, _ = self._rows_at(samples.x, samples.target)
        self.parameters["concepts"][features] = read
        self.parameters["b_enc"][features] = 0

    def selection(self) -> Sparsemax:
        return Sparsemax(float(self.buffers["scale"]))

    def dictionary(self) -> Dictionary:
        keys, values = (rows.detach().cpu() for rows in self.rows())
        self.parameters |= {"encoder": keys, "decoder": values}
        try:
            return super().dictionary()
        finally:
            del self.parameters["encoder"], self.parameters["decoder"]
