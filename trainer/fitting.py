"""Fit one dictionary to harvested activations: the start, the step, the cones and the restarts.

Sparse all the way: the code is (values, indices), decoding is a gather, and both weight gradients touch only rows that fired.
Gradients are written by hand (they are five lines), so no autograd graph is kept.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lexiscope.anchors import TokenSums, class_mean_anchors, into_cones, rows_per_token
from lexiscope.checkpoint import AnchorFit
from lexiscope.dictionary import Dictionary, SparseCode, firing_order, gather_sum, top_k
from trainer.recipes import Recipe, RecipeError

OUTLIER = 4.0
"""Positions whose norm is above this many medians are left out of training (attention sinks)."""


class Centring(NamedTuple):
    """y = x · scale − mean has mean 0 and mean-square norm d."""

    mean: Tensor
    """[d] in scaled space"""
    scale: float
    mean_norm: float
    """mean norm of raw x: the unit of steering strength"""
    kept: Tensor
    """[m] indices of the rows that are no outliers"""
    largest: float
    """the norm of raw x above which a row is one"""


def fast_dtype() -> torch.dtype:
    """bf16 where the CPU multiplies it in hardware (AMX, AVX-512 BF16); elsewhere it is seven times slower than fp32."""
    capabilities = torch.cpu.get_capabilities()
    return torch.bfloat16 if capabilities.get("amx_bf16") or capabilities.get("avx512_bf16") else torch.float32


class Fitted(NamedTuple):
    dictionary: Dictionary
    """in raw space"""
    fit: AnchorFit
    centring: Centring


def _norms(x: Tensor) -> Tensor:
    return torch.cat([part.float().norm(dim=-1) for part in x.split(65536)])


def inliers(x: Tensor, largest: float) -> Tensor:
    """[m] indices of the rows of x [n, d] whose norm is at most `largest`."""
    return (_norms(x) <= largest).nonzero().squeeze(1)


def centring(x: Tensor) -> Centring:
    """Measured over all n rows of x [n, d] (bf16), in chunks."""
    norms = _norms(x)
    largest = OUTLIER * norms.median().item()
    kept = (norms <= largest).nonzero().squeeze(1)
    total, squares = torch.zeros(x.shape[1], dtype=torch.float64), 0.0
    for rows in kept.split(65536):
        part = x[rows].float()
        total += part.sum(0).double()
        squares += part.square().sum(dtype=torch.float64).item()
    mean = total / len(kept)
    variance = squares / len(kept) - float(mean @ mean)
    scale = (x.shape[1] / variance) ** 0.5
    return Centring((mean * scale).float(), scale, norms[kept].mean().item(), kept, largest)


def token_sums(x: Tensor, tokens: Tensor, centred: Centring, vocab_size: int) -> TokenSums:
    sums = TokenSums(vocab_size, x.shape[1])
    for rows in centred.kept.split(65536):
        sums.add(tokens[rows], x[rows].float() * centred.scale - centred.mean)
    return sums


@dataclass
class Weights:
    """What is trained, in scaled space; rows of `encoder` and `decoder` [d_sae, d] belong to features."""

    encoder: Tensor
    b_enc: Tensor
    decoder: Tensor
    b_dec: Tensor
    dense_in: Tensor
    dense_out: Tensor

    def tensors(self) -> list[Tensor]:
        return [self.encoder, self.b_enc, self.decoder, self.b_dec, self.dense_in, self.dense_out]


class Fit:
    """One dictionary in training. `step` takes a batch; `dictionary` gives what has been learned, in raw space."""

    def __init__(self, recipe: Recipe, x: Tensor, tokens: Tensor, *, embedding: Tensor, d_sae: int, seed: int = 0) -> None:
        """x [n, d] bf16 activations on tokens [n]; embedding is W_E [vocab, d_e]. Raises RecipeError where k > d_sae."""
        if not 0 < recipe.k <= d_sae:
            raise RecipeError(f"k is {recipe.k}: it must be between 1 and the dictionary's width, {d_sae}.")
        self.recipe, self.x, self.tokens = recipe, x, tokens
        self.random = torch.Generator().manual_seed(seed)
        self.centring = centring(x)
        sums = token_sums(x, tokens, self.centring, len(embedding))
        self.counts = sums.counts
        self.anchors = class_mean_anchors(embedding, sums)
        self.unit_anchors = F.normalize(self.anchors, dim=-1)
        self.assigned = torch.full((d_sae,), -1)
        self.fired = torch.zeros(d_sae, dtype=torch.bool)
        self.reduce: Callable[[Sequence[Tensor], Tensor], None] = lambda gradients, fired: None
        """Makes the gradients and `fired` of several ranks one (trainer.distributed), in place, before each optimiser step."""
        self._start(d_sae)
        for tensor in self.weights.tensors():
            tensor.grad = torch.zeros_like(tensor)
        self.pre_activations = torch.empty(recipe.batch, d_sae)
        self.matmul_dtype = fast_dtype()
        self.optimiser = torch.optim.Adam(self.weights.tensors(), lr=recipe.learning_rate, betas=(0.9, 0.999), fused=True)

    # --- the start ---

    def _start(self, d_sae: int) -> None:
        """Rows at training samples, tied; the dense path at the top principal directions; the encoder scaled to fit."""
        rows = self._starting_rows(d_sae)
        if self.recipe.anchored:
            self.assigned = self.tokens[rows].long()
        directions = self._held(F.normalize(self.batch(rows), dim=-1), torch.arange(d_sae))
        sample = self.batch(self.centring.kept[torch.randperm(len(self.centring.kept), generator=self.random)[:4096]])
        rank = self.recipe.dense_rank
        principal = torch.linalg.eigh(sample.T @ sample).eigenvectors[:, -rank:] if rank else torch.zeros(sample.shape[1], 0)
        rest = sample - (sample @ principal) @ principal.T
        code = top_k(sample @ directions.T, self.recipe.k)
        decoded = gather_sum(code, directions)
        shrink = (decoded * rest).sum() / decoded.square().sum()  # least squares: the first reconstruction does not overshoot
        self.weights = Weights(
            encoder=(directions * shrink).contiguous(),
            b_enc=torch.zeros(d_sae),
            decoder=directions.contiguous(),
            b_dec=torch.zeros(sample.shape[1]),
            dense_in=principal.contiguous(),
            dense_out=principal.T.contiguous(),
        )
        self.encoder_norm = float(shrink)

    def _starting_rows(self, d_sae: int) -> Tensor:
        """[d_sae] indices of the samples that rows start at: uniform, or for anchored rows ∝ count^0.7 a token."""
        kept = self.centring.kept
        if not self.recipe.anchored:
            return kept[torch.randint(len(kept), (d_sae,), generator=self.random)]
        shuffled = kept[torch.randperm(len(kept), generator=self.random)]
        shuffled = shuffled[self.tokens[shuffled].argsort(stable=True)]  # grouped by token, in random order within
        counts = torch.bincount(self.tokens[shuffled], minlength=len(self.counts))
        wanted = rows_per_token(counts, d_sae)
        starts = counts.cumsum(0) - counts
        token = torch.arange(len(wanted)).repeat_interleave(wanted)
        nth = torch.arange(d_sae) - (wanted.cumsum(0) - wanted)[token]
        return shuffled[starts[token] + nth % counts[token]]

    def _held(self, directions: Tensor, features: Tensor) -> Tensor:
        """Unit rows of `features`, held in their cones where the recipe anchors."""
        if not self.recipe.anchored:
            return F.normalize(directions, dim=-1)
        return into_cones(directions, self.unit_anchors[self.assigned[features]], self.recipe.cosine)

    def normalise(self, x: Tensor) -> Tensor:
        """[n, d] raw activations, centred and scaled to mean-square norm d, in float32."""
        return x.float() * self.centring.scale - self.centring.mean

    def batch(self, rows: Tensor) -> Tensor:
        """[n, d] centred and scaled activations of the given rows of the starting sample."""
        return self.normalise(self.x[rows])

    # --- the step ---

    def step(self, y: Tensor, learning_rate: float) -> tuple[Tensor, Tensor]:
        """One step of Adam on centred activations y [n, d]. Returns (mean squared error, squared error a token [n])."""
        w, n = self.weights, y.numel()
        code = top_k(self._encode(y), self.recipe.k)
        hidden = y @ w.dense_in
        error = gather_sum(code, w.decoder) + hidden @ w.dense_out + w.b_dec - y
        slope = error * (2 / n)
        back = self._code_gradient(code, slope)
        order = firing_order(code)
        features, d_decoder, d_encoder = order.features, order.sum(code.values, slope), order.sum(back, y)
        unit = w.decoder[features]
        d_decoder -= (d_decoder * unit).sum(-1, keepdim=True) * unit  # rows are unit: no gradient along them
        for tensor, rows in ((w.encoder, d_encoder), (w.decoder, d_decoder)):
            tensor.grad.zero_().index_copy_(0, features, rows)
        w.b_enc.grad.zero_().index_add_(0, code.indices.reshape(-1), back.reshape(-1))
        w.b_dec.grad.copy_(slope.sum(0))
        w.dense_out.grad.copy_(hidden.T @ slope)
        w.dense_in.grad.copy_(y.T @ (slope @ w.dense_out.T))
        self.fired[features] = True
        self.reduce([tensor.grad for tensor in w.tensors()], self.fired)
        self.optimiser.param_groups[0]["lr"] = learning_rate
        self.optimiser.step()
        self.hold()
        squares = error.square().sum(-1)
        return squares.sum() / n, squares

    def _encode(self, y: Tensor) -> Tensor:
        """[n, d_sae] pre-activations, into one buffer: fresh pages of this size would cost more than the topk."""
        pre = self.pre_activations[: len(y)]
        if self.matmul_dtype == torch.float32:
            return torch.addmm(self.weights.b_enc, y, self.weights.encoder.T, out=pre)
        product = y.to(self.matmul_dtype) @ self.weights.encoder.to(self.matmul_dtype).T
        return torch.add(product, self.weights.b_enc, out=pre)

    def _code_gradient(self, code: SparseCode, slope: Tensor) -> Tensor:
        """[n, k] ∂loss/∂values: ⟨slope, W_dec[i]⟩ where the feature is active; in chunks that stay in cache."""
        parts = [
            torch.bmm(self.weights.decoder[indices], part[..., None]).squeeze(-1)
            for indices, part in zip(code.indices.split(128), slope.split(128), strict=True)
        ]
        return torch.cat(parts) * (code.values > 0)

    def hold(self) -> None:
        """Unit norm and cones, outside Adam (METHOD.md §4 item 3), in chunks that stay in cache."""
        for features in torch.arange(len(self.weights.decoder)).split(4096):
            rows = self.weights.decoder[features[0] : features[-1] + 1]
            rows.copy_(self._held(rows, features))

    def restart(self, y: Tensor, tokens: Tensor, squares: Tensor) -> int:
        """Restart every row that has not fired since the last call at the worst reconstructed of y [n, d]; returns how many.

        An anchored row takes the token of its new sample.
        """
        dead = (~self.fired).nonzero().squeeze(1)
        self.fired.zero_()
        if len(dead) == 0:
            return 0
        picked = squares.multinomial(len(dead), replacement=len(dead) > len(squares), generator=self.random)
        if self.recipe.anchored:
            self.assigned[dead] = tokens[picked].long()
        directions = self._held(F.normalize(y[picked], dim=-1), dead)
        self.weights.decoder[dead] = directions
        self.weights.encoder[dead] = directions * self.encoder_norm
        self.weights.b_enc[dead] = 0
        for tensor in (self.weights.encoder, self.weights.decoder, self.weights.b_enc):
            for moment in ("exp_avg", "exp_avg_sq"):
                self.optimiser.state[tensor][moment][dead] = 0
        return len(dead)

    # --- snapshots ---

    def state(self) -> dict[str, Any]:
        """What training changes; the rest follows from the recipe and the sample, so a resumed run makes the same `Fit` first."""
        return {
            "weights": self.weights.tensors(),
            "optimiser": self.optimiser.state_dict(),
            "assigned": self.assigned,
            "fired": self.fired,
            "random": self.random.get_state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        for tensor, saved in zip(self.weights.tensors(), state["weights"], strict=True):
            tensor.copy_(saved)
        self.optimiser.load_state_dict(state["optimiser"])
        self.assigned.copy_(state["assigned"])
        self.fired.copy_(state["fired"])
        self.random.set_state(state["random"])

    def fitted(self) -> Fitted:
        w, dense = self.weights, self.recipe.dense_rank > 0
        scaled = Dictionary(
            W_enc=w.encoder.T,
            b_enc=w.b_enc,
            W_dec=w.decoder,
            b_dec=w.b_dec,
            k=self.recipe.k,
            dense_in=w.dense_in if dense else None,
            dense_out=w.dense_out if dense else None,
        )
        centred = self.centring
        fit = AnchorFit(self.anchors / centred.scale, self.counts, centred.mean / centred.scale, self.assigned)
        return Fitted(scaled.fold(centred.mean, centred.scale), fit, centred)
