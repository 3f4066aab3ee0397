"""Fit one dictionary to harvested activations: the start, the step, the cones and the restarts.

Sparse all the way: the code is (values, indices), decoding is a gather, and both weight gradients touch only
rows that fired. Gradients are written by hand (they are a few lines), so no autograd graph is kept.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lexiscope.anchor_sets import ANCHOR_SETS, DESCRIPTIONS, Material
from lexiscope.anchors import into_cones, stay_in_cones
from lexiscope.checkpoint import AnchorFit
from lexiscope.dictionary import Dictionary
from lexiscope.evidence import lift_names
from lexiscope.selection import TopK
from lexiscope.sparse_code import SparseCode, gather_sum, top_k
from trainer import kernels
from trainer.recipes import Recipe, RecipeError
from trainer.start import (
    Centring,
    Surroundings,
    centring,
    material,
    outside,
    principal_directions,
    starting_rows,
)

REMEMBERED = 65536
"""Tokens, the last trained on, whose firings the names of highest lift are read from."""

ENCODED = 1024
"""Tokens whose pre-activations are held at once on a CPU: 206 MB at F 50,257."""


def fast_dtype(device: torch.device) -> torch.dtype:
    """bf16 on GPUs and where the CPU multiplies it in hardware (AMX, AVX-512 BF16); elsewhere it is seven
    times slower than fp32.
    """
    capabilities = torch.cpu.get_capabilities()
    fast = device.type == "cuda" or capabilities.get("amx_bf16") or capabilities.get("avx512_bf16")
    return torch.bfloat16 if fast else torch.float32


def _buffer(rows: int, columns: int) -> Tensor:
    """[rows, columns] whose rows begin at whole cache lines: at 50,257 columns the product into it takes a
    quarter less time.
    """
    return torch.empty(rows, -(-columns // 16) * 16)[:, :columns]


class Fitted(NamedTuple):
    dictionary: Dictionary
    """in raw space"""
    fit: AnchorFit
    centring: Centring
    anchor_kind: str
    """what the anchors are, in words"""


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
    """One dictionary in training. `step` takes a batch; `fitted` gives what has been learned, in raw space."""

    def __init__(
        self,
        recipe: Recipe,
        x: Tensor,
        tokens: Tensor,
        *,
        embedding: Tensor,
        d_sae: int,
        seed: int = 0,
        device: torch.device | str = "cpu",
        around: Surroundings | None = None,
    ) -> None:
        """x [n, d] bf16 activations on tokens [n]; embedding is W_E [vocab, d_e]; some anchor sets are made
        from `around`.

        Raises RecipeError where k > d_sae, or where the anchor set cannot be made from these.
        """
        if not 0 < recipe.k <= d_sae:
            raise RecipeError(f"k is {recipe.k}: it must be between 1 and the dictionary's width, {d_sae}.")
        self.recipe, self.x, self.tokens = recipe, x, tokens
        self.random = torch.Generator().manual_seed(seed)
        self.centring = centring(x)
        self.device = torch.device(device)
        found = material(x, tokens, self.centring, embedding=embedding, around=around, seed=seed)
        self.principal = principal_directions(found.covariance, recipe.dense_rank)
        self.counts = found.current.counts
        self.anchors = self._anchors(found)
        self.unit_anchors = (
            F.normalize(self.anchors, dim=-1).to(self.device) if recipe.anchored else self.anchors[:0]
        )
        self.assigned = torch.full((d_sae,), -1, device=self.device)
        self.fired = torch.zeros(d_sae, dtype=torch.bool, device=self.device)
        self.silent = torch.zeros(d_sae, dtype=torch.int32, device=self.device)
        """steps since each row last fired"""
        self.reduce: Callable[[Sequence[Tensor], Tensor], None] = lambda gradients, fired: None
        """Makes the gradients and `fired` of several ranks one (trainer.distributed), in place, before each
        optimiser step.
        """
        self.unite: Callable[[Tensor], None] = lambda fired: None
        """Makes a step's `fired` one, in place: every rank then counts the same rows as silent."""
        self._start(d_sae)
        for tensor in self.weights.tensors():
            tensor.grad = torch.zeros_like(tensor)
        self.matmul_dtype = fast_dtype(self.device)
        self.pre_activations = (
            None if self.device.type == "cuda" else _buffer(min(recipe.batch, ENCODED), d_sae)
        )
        self.optimiser = torch.optim.Adam(
            self.weights.tensors(), lr=recipe.learning_rate, betas=(0.9, 0.999), fused=True
        )
        self.recent_steps = -(-REMEMBERED // recipe.batch)
        self.recent: deque[tuple[Tensor, Tensor]] = deque(maxlen=self.recent_steps)

    # --- the start ---

    def _anchors(self, found: Material) -> Tensor:
        """[vocab, d] in scaled space, outside the dense path's directions."""
        try:
            anchors = ANCHOR_SETS[self.recipe.anchors](found)
        except ValueError as error:
            raise RecipeError(f"Anchors '{self.recipe.anchors}' cannot be fitted: {error}") from error
        if anchors.shape[1] != len(self.principal):
            raise RecipeError(
                f"Anchors '{self.recipe.anchors}' have {anchors.shape[1]} dimensions, the activations {len(self.principal)}."
            )
        return outside(anchors, self.principal)

    def _start(self, d_sae: int) -> None:
        """Rows at training samples, the decoder's held in their cones; the dense path at the top principal
        directions.
        """
        kept, by_token = self.centring.kept, self.recipe.anchored
        rows = starting_rows(
            self.tokens, kept, d_sae, vocab_size=len(self.counts), by_token=by_token, random=self.random
        )
        if self.recipe.anchored:
            self.assigned = self.tokens[rows].long().to(self.device)
        begin = F.normalize(outside(self.batch(rows), self.principal), dim=-1)
        directions = self._held(begin.to(self.device), torch.arange(d_sae, device=self.device)).cpu()
        sample = self.batch(kept[torch.randperm(len(kept), generator=self.random)[:4096]])
        code = top_k(sample @ begin.T, self.recipe.k)
        decoded = gather_sum(code, directions)
        shrink = (
            decoded * outside(sample, self.principal)
        ).sum() / decoded.square().sum()  # least squares: no overshoot at first
        start = (
            begin * shrink,
            torch.zeros(d_sae),
            directions,
            torch.zeros(sample.shape[1]),
            self.principal.clone(),
            self.principal.T,
        )
        self.weights = Weights(*(tensor.contiguous().to(self.device) for tensor in start))
        self.encoder_norm = float(shrink)
        self.centring = self.centring._replace(mean=self.centring.mean.to(self.device))
        self.principal = self.principal.to(self.device)

    def _held(self, directions: Tensor, features: Tensor) -> Tensor:
        """Unit rows of `features`, held in their cones where the recipe anchors."""
        if not self.recipe.anchored:
            return F.normalize(directions, dim=-1)
        return into_cones(directions, self.unit_anchors[self.assigned[features]], self.recipe.cosine)

    def normalise(self, x: Tensor) -> Tensor:
        """[n, d] raw activations, centred and scaled to mean-square norm d, in float32."""
        return self.centring.normalise(x)

    def batch(self, rows: Tensor) -> Tensor:
        """[n, d] centred and scaled activations of the given rows of the starting sample."""
        return self.normalise(self.x[rows])

    # --- the step ---

    def step(self, y: Tensor, learning_rate: float, tokens: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """One step of Adam on centred activations y [n, d]. Returns (mean squared error, squared error a
        token [n]).

        `tokens` [n], where given, are remembered with what fired on them, for the names of highest lift.
        """
        w, n = self.weights, y.numel()
        code = self._encode(y)
        hidden = y @ w.dense_in
        error = kernels.decode(code, w.decoder) + hidden @ w.dense_out + w.b_dec - y
        slope = error * (2 / n)
        self._row_gradients(code, slope, y)
        w.b_dec.grad.copy_(slope.sum(0))
        w.dense_out.grad.copy_(hidden.T @ slope)
        w.dense_in.grad.copy_(y.T @ (slope @ w.dense_out.T))
        if self.recipe.aux_k:
            self._revive(y, error)
        self.reduce([tensor.grad for tensor in w.tensors()], self.fired)
        if self.recipe.anchored:
            stay_in_cones(w.decoder.grad, w.decoder, self.unit_anchors, self.assigned, self.recipe.cosine)
        self.optimiser.param_groups[0]["lr"] = learning_rate
        self.optimiser.step()
        self.hold()
        if tokens is not None:
            self.recent.append((torch.where(code.values > 0, code.indices, -1).int().cpu(), tokens.int()))
        squares = error.square().sum(-1)
        return squares.sum() / n, squares

    def _encode(self, y: Tensor) -> SparseCode:
        """On a CPU into one buffer: fresh pages of this size would cost more than the top k."""
        w, dtype = self.weights, self.matmul_dtype
        return kernels.encode_top_k(
            y.to(dtype), w.encoder.to(dtype), w.b_enc, self.recipe.k, buffer=self.pre_activations
        )

    def _row_gradients(self, code: SparseCode, slope: Tensor, y: Tensor) -> None:
        """Of encoder, decoder and encoder bias; rows are unit, so there is no gradient along them."""
        w = self.weights
        back = kernels.code_gradient(code, w.decoder, slope)
        order = kernels.firings(code, len(w.decoder))
        kernels.row_gradients(order, code.values, slope, w.decoder.grad, tangent_to=w.decoder)
        kernels.row_gradients(order, back, y, w.encoder.grad, total=w.b_enc.grad)
        fired = order.fired
        self.unite(fired)
        self.fired |= fired
        self.silent += 1
        self.silent.masked_fill_(fired, 0)

    def _revive(self, y: Tensor, error: Tensor) -> None:
        """AuxK: the silent rows' best aux_k reconstruct what is missing; their gradients join the others'.
        Reads silent rows alone.
        """
        w, n = self.weights, y.numel()
        rows = (self.silent > self.recipe.aux_after).nonzero().squeeze(1)
        if not len(rows):
            return
        directions = w.decoder[rows]
        code = top_k(torch.addmm(w.b_enc[rows], y, w.encoder[rows].T), min(self.recipe.aux_k, len(rows)))
        slope = (gather_sum(code, directions) + error) * (2 * self.recipe.aux_weight / n)
        back = kernels.code_gradient(code, directions, slope)
        order = kernels.firings(code, len(rows))
        encoder, decoder, bias = (
            torch.zeros_like(directions),
            torch.zeros_like(directions),
            torch.zeros_like(w.b_enc[rows]),
        )
        kernels.row_gradients(order, code.values, slope, decoder, tangent_to=directions)
        kernels.row_gradients(order, back, y, encoder, total=bias)
        for tensor, gradient in ((w.decoder, decoder), (w.encoder, encoder), (w.b_enc, bias)):
            tensor.grad.index_copy_(0, rows, gradient)

    def hold(self) -> None:
        """Unit norm and cones, outside Adam (METHOD.md §4 item 3)."""
        anchored = (self.unit_anchors, self.assigned, self.recipe.cosine) if self.recipe.anchored else ()
        kernels.hold_rows(self.weights.decoder, *anchored)

    def restart(self, y: Tensor, tokens: Tensor, squares: Tensor) -> int:
        """Restart every row that has not fired since the last call at the worst reconstructed of y [n, d];
        returns how many.

        An anchored row takes the token of its new sample.
        """
        dead = (~self.fired).nonzero().squeeze(1)
        self.fired.zero_()
        if len(dead) == 0:
            return 0
        picked = squares.cpu().multinomial(
            len(dead), replacement=len(dead) > len(squares), generator=self.random
        )
        if self.recipe.anchored:
            self.assigned[dead] = tokens[picked].long().to(self.device)
        begin = F.normalize(outside(y[picked.to(self.device)], self.principal), dim=-1)
        self.weights.decoder[dead] = self._held(begin, dead)
        self.weights.encoder[dead] = begin * self.encoder_norm
        self.weights.b_enc[dead] = 0
        self.silent[dead] = 0
        for tensor in (self.weights.encoder, self.weights.decoder, self.weights.b_enc):
            for moment in ("exp_avg", "exp_avg_sq"):
                self.optimiser.state[tensor][moment][dead] = 0
        return len(dead)

    # --- snapshots ---

    def state(self) -> dict[str, Any]:
        """What training changes; the rest follows from the recipe and the sample, so a resumed run makes the
        same `Fit` first.
        """
        return {
            "weights": self.weights.tensors(),
            "optimiser": self.optimiser.state_dict(),
            "assigned": self.assigned,
            "fired": self.fired,
            "silent": self.silent,
            "recent": list(self.recent),
            "random": self.random.get_state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        for tensor, saved in zip(self.weights.tensors(), state["weights"], strict=True):
            tensor.copy_(saved)
        self.optimiser.load_state_dict(state["optimiser"])
        for mine, saved in ((self.assigned, "assigned"), (self.fired, "fired"), (self.silent, "silent")):
            mine.copy_(state[saved])
        self.recent.extend(state["recent"])
        self.random.set_state(state["random"])

    # --- the result ---

    def fitted(self) -> Fitted:
        w, dense = self.weights, self.recipe.dense_rank > 0
        scaled = Dictionary(
            W_enc=w.encoder.T.cpu(),
            b_enc=w.b_enc.cpu(),
            W_dec=w.decoder.cpu(),
            b_dec=w.b_dec.cpu(),
            selection=TopK(self.recipe.k),
            dense_in=w.dense_in.cpu() if dense else None,
            dense_out=w.dense_out.cpu() if dense else None,
        )
        centred = self.centring._replace(mean=self.centring.mean.cpu())
        fit = AnchorFit(
            anchors=self.anchors / centred.scale,
            counts=self.counts,
            mean=centred.mean / centred.scale,
            assigned=self.assigned.cpu(),
            lift=self._lift_names(),
        )
        kind = DESCRIPTIONS[self.recipe.anchors] + (
            f", outside the top {self.recipe.dense_rank} principal directions" if dense else ""
        )
        return Fitted(scaled.fold(centred.mean, centred.scale), fit, centred, kind)

    def _lift_names(self) -> Tensor:
        """[d_sae] the training token of highest lift of each feature, over the last tokens trained on; −1
        where it was silent.
        """
        if not self.recent:
            return torch.full_like(self.assigned, -1).cpu()
        features, tokens = (torch.cat(parts) for parts in zip(*self.recent, strict=True))
        fired = features >= 0
        on = tokens[:, None].expand_as(features)[fired]
        counts = torch.bincount(tokens, minlength=len(self.counts))
        return lift_names(features[fired], on, counts, len(self.assigned))
