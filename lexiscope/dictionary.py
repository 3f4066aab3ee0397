"""The sparse dictionary: encode a residual stream to (values, indices), decode it back.

Weights are in the raw space of the hook point: whatever centring and scaling training used is folded in
(`fold`), so that `x̂ = Σ_j values_j · W_dec[indices_j] + (x P) Q + b_dec` with
`values, indices = selection(ReLU(x W_enc + b_enc))`. The dense path (P, Q) is there only where a recipe needs
it, and so is the token look-up L [vocab, d_in] (docs/method.md#token-look-up): x is then `x − L[token]` on
the right-hand side, and `L[token]` is added to the reconstruction. Dictionaries of other libraries may
normalise each x first; whatever else they do is folded into the weights.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lexiscope.errors import CheckpointError
from lexiscope.precision import fast_dtype
from lexiscope.rounded import RoundedEncoder, Scratch
from lexiscope.selection import AbsTopK, Selected, Selection, Threshold, TopK
from lexiscope.sparse_code import SparseCode, gather_sum

PART = 4096
"""rows that are hashed at once"""
ROUNDED_AT_ONCE = 512
"""Tokens whose pre-activations in bf16 are held at once."""
LAYER_NORM_EPSILON = 1e-5
"""Added to the deviation before encoding and not undone after decoding, as SAELens does."""


class Parts(NamedTuple):
    """A reconstruction of n activations in parts, each [n, d_out] or [d_out]; their sum is x̂."""

    sparse: Tensor
    dense: Tensor
    lookup: Tensor
    bias: Tensor

    @property
    def whole(self) -> Tensor:
        """[n, d_out] x̂"""
        return self.sparse + self.dense + self.lookup + self.bias


class _Feedback:
    """What a selection may ask of the input beside its pre-activations."""

    def __init__(self, dictionary: "Dictionary", x: Tensor, tokens: Tensor | None) -> None:
        self.dictionary, self.x, self.tokens = dictionary, x, tokens

    def __call__(self, code: SparseCode) -> Tensor:
        return self.dictionary.feedback(code)

    def norm(self) -> Tensor:
        """[n] ‖x − b_dec‖, without the look-up's part, in units of the decoder rows' mean norm."""
        dictionary = self.dictionary
        x = dictionary.beyond_token(self.x, self.tokens) - dictionary.b_dec
        return x.norm(dim=-1) / dictionary.W_dec.norm(dim=-1).mean()


class Rounded(NamedTuple):
    """An encoder in bf16 of x − centre."""

    weights: RoundedEncoder
    centre: Tensor
    """[d_in]"""
    scratch: Scratch

    def copied(self) -> "Rounded":
        """The same in memory of its own."""
        return Rounded(self.weights.copied(), self.centre.clone(), Scratch(self.scratch.tokens))


@dataclass(frozen=True)
class Dictionary:
    """A sparse autoencoder, or a transcoder (d_out is then another hook point's width). All tensors but the
    look-up share dtype, and all share the device.
    """

    W_enc: Tensor
    """[d_in, d_sae]"""
    b_enc: Tensor
    """[d_sae]"""
    W_dec: Tensor
    """[d_sae, d_out]; row i is the direction of feature i; d_out is d_in except in a transcoder"""
    b_dec: Tensor
    """[d_out]"""
    selection: Selection
    """which pre-activations become the code: `TopK(k)`, `Threshold(threshold)`"""
    dense_in: Tensor | None = None
    """[d_in, rank] P of the dense path"""
    dense_out: Tensor | None = None
    """[rank, d_out] Q of the dense path"""
    normalise: Literal["none", "constant_norm", "layer_norm"] = "none"
    """what is done to each x before encoding and undone after decoding: scaled to norm √d, or standardised
    over its width
    """
    lookup: Tensor | None = None
    """[vocab, d_in] the token look-up, in bf16: the mean residual stream on each token. What needs x then
    needs `tokens` [n] too, the token that each x stands on.
    """

    encoder: "Rounded | None" = None
    """what computes pre-activations in place of W_enc and b_enc, where it is given (`rounded`)"""

    def __post_init__(self) -> None:
        """Raises CheckpointError for a look-up beside what it cannot be combined with."""
        if self.lookup is not None and (self.normalise != "none" or self.W_dec.shape[-1] != self.d_in):
            other = "normalises its input" if self.normalise != "none" else "is a transcoder"
            raise CheckpointError(f"A dictionary that {other} cannot have a token look-up.")

    @property
    def d_in(self) -> int:
        return self.W_enc.shape[0]

    @property
    def d_out(self) -> int:
        return self.W_dec.shape[1]

    @property
    def d_sae(self) -> int:
        return self.W_dec.shape[0]

    @property
    def directions(self) -> Tensor:
        """[d_sae, d_in] unit-norm rows of W_dec."""
        return F.normalize(self.W_dec, dim=-1)

    def looked_up(self, tokens: Tensor | None) -> Tensor:
        """[n, d_in] the look-up's rows of tokens [n], in float32.

        Raises CheckpointError where there is a look-up and no tokens, or a token that it has no row for.
        """
        assert self.lookup is not None
        if tokens is None:
            raise CheckpointError(
                "This dictionary has a token look-up: give the token that each activation stands on."
            )
        if len(tokens) and not 0 <= int(tokens.min()) <= int(tokens.max()) < len(self.lookup):
            worst = tokens.min() if tokens.min() < 0 else tokens.max()
            raise CheckpointError(
                f"Token {int(worst)} is not one of the {len(self.lookup):,} of the dictionary's look-up: it "
                "belongs to another vocabulary."
            )
        return self.lookup[tokens.to(self.lookup.device)].float()

    def lookup_directions(self, tokens: Tensor) -> Tensor:
        """[n, d_in] of norm 1: the look-up's rows of tokens [n], less the mean of all its rows. Raises
        CheckpointError as `looked_up`, and where there is no look-up.
        """
        if self.lookup is None:
            raise CheckpointError("The dictionary has no token look-up.")
        mean = self.lookup.mean(0, dtype=torch.float32)
        return F.normalize(self.looked_up(tokens) - mean, dim=-1)

    def check_vocabulary(self, vocab_size: int, *, what: str | Path) -> None:
        """Raises CheckpointError where the look-up is not of a vocabulary of `vocab_size` tokens; `what`
        begins the message.
        """
        if self.lookup is not None and len(self.lookup) != vocab_size:
            raise CheckpointError(
                f"{what} has a token look-up for {len(self.lookup):,} tokens, but the language model has "
                f"{vocab_size:,}: it was trained on another model."
            )

    def beyond_token(self, x: Tensor, tokens: Tensor | None) -> Tensor:
        """[n, d_in] what the features and the dense path explain: x, without the look-up's part."""
        return x if self.lookup is None else x - self.looked_up(tokens)

    def pre_activations(self, x: Tensor, tokens: Tensor | None = None) -> Tensor:
        """[n, d_sae] before the selection, for x [n, d_in]."""
        x = self._read(x, tokens)
        if self.encoder is not None:
            return self.encoder.weights.pre_activations(x - self.encoder.centre).float()
        return F.linear(x, self.W_enc.T, self.b_enc)

    def _read(self, x: Tensor, tokens: Tensor | None) -> Tensor:
        """[n, d_in] what the encoder's rows are multiplied with."""
        x = self.beyond_token(x, tokens)
        if self.normalise != "none":
            x = (x - self._shift(x)) / (
                self._scale(x) + (LAYER_NORM_EPSILON if self.normalise == "layer_norm" else 0.0)
            )
        return x

    def fast(self) -> "Dictionary":
        """`rounded` where bf16 is fast and the selection reads nothing but pre-activations."""
        rounds = fast_dtype(self.W_enc.device) is torch.bfloat16 and self.selects_from_encoder
        return self.rounded() if rounds else self

    @property
    def selects_from_encoder(self) -> bool:
        """The selection reads pre-activations alone, and decoder rows have no part in it."""
        return isinstance(self.selection, TopK | AbsTopK | Threshold)

    def rounded(self) -> "Dictionary":
        """The same dictionary, whose pre-activations are products in bf16, of x less b_dec, which is near its
        mean: rounding then costs little where x is far from 0.
        """
        centre = torch.zeros_like(self.W_enc[:, 0])
        if self.lookup is None and self.normalise == "none" and len(self.b_dec) == len(centre):
            centre = self.b_dec
        weights = RoundedEncoder(self.W_enc.T, self.b_enc + centre @ self.W_enc)
        return replace(self, encoder=Rounded(weights, centre, Scratch(ROUNDED_AT_ONCE)))

    def feedback(self, code: SparseCode) -> Tensor:
        """[n, d_sae] what the pre-activations lose when the code's sparse part is taken off x."""
        return gather_sum(code, self.W_dec) @ self.W_enc

    def encode(self, x: Tensor, tokens: Tensor | None = None) -> SparseCode:
        """The active features of each row of x [n, d_in]; as many columns as the fullest row needs."""
        return self.selection.encode(self.pre_activations(x, tokens), _Feedback(self, x, tokens))

    def select(self, x: Tensor, tokens: Tensor | None = None, *, runners_up: int) -> Selected:
        """As `encode`, with the `runners_up` highest pre-activations that were not selected."""
        if self.encoder is None or not isinstance(self.selection, TopK | AbsTopK) or not len(x):
            feedback = _Feedback(self, x, tokens)
            return self.selection.select(self.pre_activations(x, tokens), runners_up, feedback)
        weights, centre, scratch = self.encoder
        buffer, parts = scratch.of(self.d_sae, torch.bfloat16, x.device), []
        for part in (self._read(x, tokens) - centre).split(scratch.tokens):
            pre = weights.pre_activations(part, out=buffer[: len(part)])
            parts += [self.selection.select(pre, runners_up)]
        return Selected(*(_joined(codes) for codes in zip(*parts, strict=True)))

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor by name, the selection's last."""
        found = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        return found | self.selection.tensors()

    @property
    def identity(self) -> str:
        """A short id of its weights, from every bit of them as float32."""
        digest = sha256(f"{self.selection.kind} {self.selection.max_active} {self.normalise}".encode())
        for name, tensor in self.tensors().items():
            digest.update(f"{name} {tuple(tensor.shape)}".encode())
            for part in tensor.detach().split(PART):  # a copy of the whole would be as large as the weights
                digest.update(part.float().cpu().contiguous().numpy().data)
        return digest.hexdigest()[:12]

    def map(self, change: Callable[[Tensor], Tensor]) -> "Dictionary":
        """The same dictionary with `change` applied to each tensor (another device, a copy)."""
        own: dict[str, Any] = {
            name: change(value) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, selection=self.selection.map(change), **own)

    def of_feature(self, index: int) -> "Dictionary":
        """The dictionary that holds this one feature only; the dense path and the look-up are kept."""
        return replace(
            self,
            W_enc=self.W_enc[:, index : index + 1].contiguous(),
            b_enc=self.b_enc[index : index + 1],
            W_dec=self.W_dec[index : index + 1],
            selection=self.selection.of_feature(index),
        )

    def _scale(self, x: Tensor) -> Tensor | float:
        """[n, 1] what a reconstruction of x is multiplied by; encoding divides by it, but for an epsilon."""
        match self.normalise:
            case "constant_norm":
                return x.norm(dim=-1, keepdim=True) / self.d_in**0.5
            case "layer_norm":
                return x.std(dim=-1, keepdim=True)
        return 1.0

    def _shift(self, x: Tensor) -> Tensor | float:
        """[n, 1] what was taken off x before that."""
        return x.mean(dim=-1, keepdim=True) if self.normalise == "layer_norm" else 0.0

    def decode_sparse(self, code: SparseCode, x: Tensor) -> Tensor:
        """[n, d_out] the sparse part alone, without bias or dense path (x feeds only the normalisation's
        scale).
        """
        return gather_sum(code, self.W_dec) * self._scale(x)

    def writes(self, x: Tensor, features: Tensor, values: Tensor) -> Tensor:
        """[m, d_out] what one feature each, features [m], adds to the reconstruction of x [m, d_in] at
        activation values [m]; on x's device, in its dtype.
        """
        return (values[:, None] * self.W_dec[features]).to(x) * self._scale(x)

    def dense_part(self, x: Tensor, tokens: Tensor | None = None) -> Tensor:
        """[n, d_out] what the dense path adds; zeros where there is none."""
        return self._dense(x if self.dense_in is None else self.beyond_token(x, tokens))

    def _dense(self, x: Tensor) -> Tensor:
        """The dense path of x, which is without the look-up's part already."""
        if self.dense_in is None or self.dense_out is None:
            return x.new_zeros(len(x), self.d_out)
        return (x @ self.dense_in) @ self.dense_out

    def decode(self, code: SparseCode, x: Tensor, tokens: Tensor | None = None) -> Tensor:
        """[n, d_out] the whole reconstruction from the code of x (x itself feeds only the dense path and the
        normalisation).
        """
        return self.parts(code, x, tokens).whole

    def parts(self, code: SparseCode, x: Tensor, tokens: Tensor | None = None) -> "Parts":
        """The reconstruction of x [n, d_in] on tokens [n] from its code, in parts."""
        bias = self.b_dec * self._scale(x) + self._shift(x)
        if self.lookup is None:
            return Parts(self.decode_sparse(code, x), self._dense(x), torch.zeros_like(bias), bias)
        lookup = self.looked_up(tokens)
        return Parts(self.decode_sparse(code, x), self._dense(x - lookup), lookup, bias)

    def reconstruct(self, x: Tensor, tokens: Tensor | None = None) -> Tensor:
        """[..., d_out] reconstruction of a residual stream [..., d_in] on tokens [...]."""
        flat = x.reshape(-1, x.shape[-1])
        on = None if tokens is None else tokens.reshape(-1)
        return self.decode(self.encode(flat, on), flat, on).reshape(*x.shape[:-1], self.d_out)

    def fold(
        self,
        mean: Tensor,
        scale: float,
        *,
        target_mean: Tensor | None = None,
        target_scale: float | None = None,
    ) -> "Dictionary":
        """The same dictionary on raw x, where this one was trained on `x · scale − mean` (mean [d_in] in
        scaled space) to reconstruct that; a transcoder also gives its target's mean [d_out] and scale.

        Activations keep their value; directions get norm 1 / scale. A look-up takes up the mean.
        """
        if self.lookup is not None:
            lookup = ((self.lookup.float() + mean) / scale).to(self.lookup.dtype)
            folded = replace(self, lookup=None).fold(torch.zeros_like(mean), scale)
            return replace(folded, lookup=lookup)
        mean_out = mean if target_mean is None else target_mean
        scale_out = scale if target_scale is None else target_scale
        dense_out = self.dense_out
        b_dec = self.b_dec + mean_out
        if self.dense_in is not None and dense_out is not None:
            b_dec = b_dec - (mean @ self.dense_in) @ dense_out
            dense_out = dense_out if scale_out == scale else dense_out * (scale / scale_out)
        return replace(
            self,
            W_enc=self.W_enc * scale,
            b_enc=self.b_enc - mean @ self.W_enc,
            W_dec=self.W_dec / scale_out,
            b_dec=b_dec / scale_out,
            dense_out=dense_out,
        )

    def centred(self) -> "Dictionary":
        """The same dictionary on raw x, where this one reads x less its mean over the width
        (TransformerLens's `center_writing_weights`).

        Activations keep their value; a dense path of rank 1 carries the mean over to the reconstruction.
        """
        ones = torch.ones_like(self.b_dec)
        return replace(
            self,
            W_enc=self.W_enc - self.W_enc.mean(0),
            dense_in=ones[:, None] / self.d_in,
            dense_out=ones[None],
        )


def _joined(codes: Sequence[SparseCode]) -> SparseCode:
    """One code, in float32, of codes of equal width."""
    values, indices = (torch.cat(columns) for columns in zip(*codes, strict=True))
    return SparseCode(values.float(), indices)
