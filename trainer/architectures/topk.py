"""TopK: ReLU, then the k largest pre-activations of each token (arXiv 2406.04093), with a dense path beside
the code, rows that start at data, unit-norm decoder rows, and AuxK for silent features.

`TopKArchitecture` is also what architectures with the same weights derive from: `select` decides the code,
`losses` the objective.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from lexiscope import selection
from lexiscope.dictionary import Dictionary
from lexiscope.rounded import Scratch
from lexiscope.sparse_code import SparseCode, abs_top_k, gather_sum, top_k
from trainer import kernels, objectives, sparse
from trainer.activations.passages import TrainingBatch
from trainer.architectures.base import Architecture, Config, Gradients, Pass, Step
from trainer.errors import RecipeError
from trainer.initialise import Start, outside
from trainer.objectives import SilentRows

ENCODED = 256
"""Tokens whose pre-activations are held at once on a CPU: at F 50,257 in bf16, 26 MB. Four times as many take
as long.
"""
START_SAMPLE = 4096
"""Tokens on which the encoder's first scale is fitted."""
LEVEL_SAMPLE = 512
"""Tokens on which first thresholds are fitted."""


@dataclass(frozen=True, kw_only=True)
class TopKConfig(Config):
    name: str = "topk"
    k: int = 32
    """Active features a token."""
    dense_rank: int = 0
    """Rank of the dense path, started at the top principal directions; 0 for none. Rows and anchors start
    outside them.
    """
    restarts: int = 4
    aux_k: int = 64
    """Silent rows that reconstruct what a token's reconstruction misses (AuxK); 0 for none."""
    aux_after: int = 30
    """Steps without firing after which a row counts as silent."""
    aux_weight: float = 1 / 32
    """Weight of AuxK's mean squared error over the variance of what is missed."""
    aux_normalised: bool = True
    """Divide AuxK's mean squared error by the variance of what is missed."""
    aligned: bool = False
    """Keep the inner product of each encoder row and its decoder row at 1 (arXiv 2605.18629)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._positive("k")
        self._not_negative("dense_rank", "aux_k", "aux_after", "aux_weight")

    def check(self, *, d_in: int, d_sae: int, embedding: tuple[int, ...]) -> None:
        if self.k > d_sae:
            raise RecipeError(f"k is {self.k}: it must be between 1 and the dictionary's width, {d_sae}.")
        if self.dense_rank > d_in:
            raise RecipeError(f"dense_rank is {self.dense_rank}: the residual stream has {d_in} dimensions.")

    def check_other_target(self, what: str) -> None:
        if self.aligned:
            raise RecipeError(
                f"{self.name} has aligned=true, which ties encoder and decoder rows of one space: {what} "
                "has two."
            )


class TopKArchitecture(Architecture):
    name = "topk"
    summary = "TopK with a dense path, rows started at data, AuxK"
    config_type = TopKConfig
    config: TopKConfig
    feature_parameters: ClassVar[tuple[str, ...]] = ("encoder", "b_enc", "decoder")
    signed: ClassVar[bool] = False
    """activations may be negative"""

    # --- the start ---

    def initialise(self, start: Start) -> None:
        """Rows at training samples; the dense path at the top principal directions."""
        principal = start.principal(self.dense_rank)
        dense_map = start.dense_map(principal)
        self.first_dense = principal.to(self.device), dense_map.to(self.device)
        rows = self.starting_samples(start)
        begin, written = self._rows_at(start.batch(rows), start.target_batch(rows))
        every = torch.arange(self.d_sae, device=self.device)
        directions = self.constrained(written, every).cpu()
        begin = begin.cpu()
        kept = start.centring.kept
        some = kept[torch.randperm(len(kept), generator=start.random)[:START_SAMPLE]]
        sample, wanted = start.batch(some), start.target_batch(some)
        largest = abs_top_k if self.signed else top_k
        most = min(self.config.k, self.d_sae)
        decoded = torch.cat(
            [gather_sum(largest(x @ begin.T, most), directions) for x in sample.split(ENCODED)]
        )
        shrink = (  # least squares: the first reconstruction is no overshoot
            decoded * (wanted - (sample @ principal) @ dense_map)
        ).sum() / decoded.square().sum()
        self.encoder_norm = float(shrink)
        tensors = {
            "encoder": begin * shrink,
            "b_enc": torch.zeros(self.d_sae),
            "decoder": directions,
            "b_dec": torch.zeros(start.d_out),
            "dense_in": principal.clone(),
            "dense_out": dense_map.clone(),
        }
        self.parameters = {name: t.contiguous().to(self.device) for name, t in tensors.items()}
        self._align()
        self._scratch = Scratch(ENCODED)

    def _rows_at(self, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Encoder and decoder rows, of norm 1, that start at samples x [m, d_in] and their targets
        [m, d_out], outside what the dense path explains.
        """
        principal, dense_map = (each.to(x.device) for each in self.first_dense)
        read = F.normalize(outside(x, principal), dim=-1)
        if not self.transcoder:
            return read, read
        return read, F.normalize(target - (x @ principal) @ dense_map, dim=-1)

    @property
    def dense_rank(self) -> int:
        return self.config.dense_rank

    def starting_samples(self, start: Start) -> Tensor:
        """[d_sae] rows of the sample that the features start at."""
        return start.spread_samples()

    def constrained(self, directions: Tensor, features: Tensor) -> Tensor:
        """Decoder rows [m, d] of `features` [m], within the constraint on weights."""
        return F.normalize(directions, dim=-1)

    def level_of(self, active: int, start: Start) -> float:
        """The pre-activation above which `active` features a token are, on a sample."""
        kept = start.centring.kept
        sample = kept[torch.randperm(len(kept), generator=start.random)[:LEVEL_SAMPLE]]
        x = start.batch(sample).to(self.device)
        pre = torch.addmm(self.parameters["b_enc"], x, self.parameters["encoder"].T)
        level = pre.reshape(-1).topk(min(active * len(x), pre.numel()), sorted=False).values.min()
        return max(float(level), 0.0)

    # --- the pass ---

    def select(self, x: Tensor) -> SparseCode:
        """The code of x [n, d_in], without a graph."""
        p = self.parameters
        return kernels.encode_top_k(
            x,
            p["encoder"],
            p["b_enc"],
            self.config.k,
            dtype=self.matmul_dtype,
            scratch=self._scratch,
            signed=self.signed,
        )

    def forward(self, x: Tensor) -> Pass:
        p = self.parameters
        with torch.no_grad():
            selected = self.select(x)
        code = sparse.encode(x, p["encoder"], p["b_enc"], selected)
        sparse_part = sparse.decode(code, p["decoder"], unit_rows=True)
        return Pass(code, sparse_part + x @ p["dense_in"] @ p["dense_out"] + p["b_dec"])

    def losses(self, batch: TrainingBatch, made: Pass, step: Step) -> dict[str, Tensor]:
        """Mean squared error, and AuxK where features are silent."""
        losses = {"mse": objectives.mse(made.output, batch.target)}
        silent = self._silent_features(made.code)
        if len(silent):
            losses["aux_k"] = self._aux_k((batch.target - made.output).detach(), batch.x, silent)
        return losses

    def _aux_k(self, residual: Tensor, x: Tensor, silent: Tensor) -> Tensor:
        """AuxK of the features `silent` [m], which read x [n, d_in]."""
        p = self.parameters
        rows = SilentRows(p["encoder"][silent], p["b_enc"][silent], p["decoder"][silent])
        return self._aux_loss(residual, x, rows)

    def _silent_features(self, code: SparseCode) -> Tensor:
        """[m] features that AuxK is for: long silent, and not in this step's code either."""
        if not self.config.aux_k:
            return self.silent.new_empty(0).long()
        fired = sparse.fired(code, self.d_sae)
        self.ranks.unite(fired)
        return ((self.silent >= self.config.aux_after) & ~fired).nonzero().squeeze(1)

    def _aux_loss(self, residual: Tensor, x: Tensor, rows: SilentRows) -> Tensor:
        """AuxK over the variance of the residual [n, d], as its paper has it, so that its weight means the
        same whatever is still missed; in proportion where fewer than aux_k rows are silent, as SAELens has
        it.
        """
        mean = self.ranks.mean(residual.mean(0))
        variance = self.ranks.mean(residual.square().mean()) - mean.square().mean()
        share = min(len(rows.b_enc) / self.config.aux_k, 1.0)
        loss = objectives.aux_k(residual, x, rows, self.config.aux_k, signed=self.signed)
        if not self.config.aux_normalised:
            return self.config.aux_weight * share * loss
        return self.config.aux_weight * share * loss / variance.clamp_min(1e-12)

    # --- the gradients by hand ---

    def gradients(self, batch: TrainingBatch, step: Step) -> Gradients:
        """The default, without a graph: one pass over the code's rows for each weight matrix."""
        if self.config.terms or "lookup" in self.parameters:
            return super().gradients(batch, step)
        p, x, n = self.parameters, batch.x, batch.target.numel()
        grad = {name: self.gradient(name) for name in p}
        code = self.select(x)
        hidden = x @ p["dense_in"]
        error = kernels.decode(code, p["decoder"]) + hidden @ p["dense_out"] + p["b_dec"] - batch.target
        slope = error * (2 / n)
        order = kernels.firings(code, self.d_sae)
        back = kernels.code_gradient(code, p["decoder"], slope, order)
        kernels.row_gradients(order, code.values, slope, grad["decoder"], tangent_to=p["decoder"])
        kernels.row_gradients(order, back, x, grad["encoder"], total=grad["b_enc"])
        grad["b_dec"].copy_(slope.sum(0))
        grad["dense_out"].copy_(hidden.T @ slope)
        grad["dense_in"].copy_(x.T @ (slope @ p["dense_out"].T))
        squares = error.square().sum(-1)
        losses = {"mse": squares.sum() / n}
        silent = self._silent_features(code)
        if len(silent):
            losses["aux_k"] = self._add_aux_gradients(-error, x, silent)
        return Gradients(losses, code, squares)

    def _add_aux_gradients(self, residual: Tensor, x: Tensor, silent: Tensor) -> Tensor:
        """Autograd over copies of the silent rows alone; returns the loss."""
        names = SilentRows._fields
        rows = SilentRows(*(self.parameters[name][silent].detach().requires_grad_() for name in names))
        with torch.enable_grad():
            loss = self._aux_loss(residual, x, rows)
            gradients = torch.autograd.grad(loss, rows)
        for name, gradient in zip(names, gradients, strict=True):
            self.gradient(name).index_add_(0, silent, gradient)
        return loss.detach()

    # --- the constraints ---

    def constrain_gradients(self) -> None:
        if self.config.aligned:
            self._align_gradients()

    def constrain_weights(self) -> None:
        """Unit norm."""
        kernels.hold_rows(self.parameters["decoder"])
        self._align()

    def _align_gradients(self) -> None:
        """For encoder = decoder + its part across the decoder row, which alone is free."""
        decoder, encoder = self.parameters["decoder"], self.parameters["encoder"]
        g_encoder, g_decoder = self.gradient("encoder"), self.gradient("decoder")
        along = (g_encoder * decoder).sum(-1, keepdim=True)
        g_encoder -= along * decoder
        g_decoder += g_encoder - along * (encoder - decoder)

    def _align(self) -> None:
        if self.config.aligned:
            decoder, encoder = self.parameters["decoder"], self.parameters["encoder"]
            encoder += (1 - (encoder * decoder).sum(-1, keepdim=True)) * decoder

    def restart(self, features: Tensor, samples: TrainingBatch) -> None:
        begin, written = self._rows_at(samples.x, samples.target)
        self.parameters["decoder"][features] = self.constrained(written, features)
        self.parameters["encoder"][features] = begin * self.encoder_norm
        self.parameters["b_enc"][features] = 0
        self._align()

    # --- the result ---

    def selection(self) -> selection.Selection:
        """How the trained dictionary selects."""
        return selection.TopK(self.config.k)

    def dictionary(self) -> Dictionary:
        p, dense = {name: t.detach().cpu() for name, t in self.parameters.items()}, self.dense_rank > 0
        return Dictionary(
            W_enc=p["encoder"].T,
            b_enc=p["b_enc"],
            W_dec=p["decoder"],
            b_dec=p["b_dec"],
            selection=self.selection(),
            dense_in=p["dense_in"] if dense else None,
            dense_out=p["dense_out"] if dense else None,
        )
