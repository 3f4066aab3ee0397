"""The map from the last residual stream to next-token logits: final norm, output projection, unembedding, and
the scale and soft cap of the logits.

Every part is measured on the model's own modules (what the norm multiplies by, whether it centres, how the
logits are scaled), and the whole is compared with a forward pass of the model when it is loaded.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from lexiscope.errors import ModelError
from lexiscope.language_model.patching import patched

SOFT_CAPS = (
    "output_logits_soft_cap",
    "final_logit_softcapping",
    "logits_soft_cap",
    "final_logit_softcap",
)
"""What configurations call the soft cap of the logits."""


class FinalNorm(NamedTuple):
    """x ↦ gain · y / rms(y) + bias, with y = x or, in a LayerNorm, x less its mean."""

    module: Any
    gain: Tensor
    """[d_model]"""
    centres: bool

    def linear(self, x: Tensor) -> Tensor:
        """The part that is linear in x: the norm without its bias at rms(y) = 1."""
        return (x - x.mean(-1, keepdim=True) if self.centres else x) * self.gain


class Readout(NamedTuple):
    """Logits = cap · tanh(scale · (W_U · projection · norm(x) + b_U) / cap); a part may be missing (None)."""

    norm: FinalNorm | None
    projection: Any
    """linear module from d_model to the width of the unembedding"""
    unembed: Any
    scale: float
    cap: float | None

    def logits(self, residual: Tensor) -> Tensor:
        """Logits [..., vocab] of residual streams [..., d_model]."""
        logits = self._scaled(self.unembed(self._normed(residual)))
        return logits.reshape(*residual.shape[:-1], logits.shape[-1])

    def logits_of(self, residual: Tensor, tokens: Tensor) -> Tensor:
        """Logits [n, q] of residual streams [n or 1, d_model] for tokens [n, q] alone."""
        rows = self.unembed.W_U.T[tokens]
        logits = (rows @ self._normed(residual)[0, :, :, None])[..., 0]
        bias = getattr(self.unembed, "b_U", None)
        return self._scaled(logits if bias is None else logits + bias[tokens]).float()

    def changes(self, before: Tensor, after: Tensor, unembedding: Tensor | None = None) -> Tensor:
        """[n, vocab] in float32: logits of residual streams `after` [n, d_model] minus those of `before`
        [n or 1, d_model]. Where no soft cap bends them, the unembedding of the difference; `unembedding` is
        W_U in the precision of that product.
        """
        if self.cap is not None:
            return self.logits(after).float() - self.logits(before).float()
        W_U = self.unembed.W_U if unembedding is None else unembedding
        difference = (self._normed(after) - self._normed(before))[0]
        changes = (difference.to(W_U.dtype) @ W_U).float()
        return changes if self.scale == 1 else changes * self.scale

    def _normed(self, residual: Tensor) -> Tensor:
        """[1, n, width] what the unembedding multiplies, of residual streams [..., d_model]; those of three
        dimensions keep them.
        """
        x = residual if residual.ndim == 3 else residual.reshape(1, -1, residual.shape[-1])
        if self.norm is not None:
            x = self.norm.module(x)
        return x if self.projection is None else self.projection(x)

    def _scaled(self, logits: Tensor) -> Tensor:
        logits = logits if self.scale == 1 else logits * self.scale
        return logits if self.cap is None else self.cap * torch.tanh(logits / self.cap)

    def effect(self, directions: Tensor) -> Tensor:
        """[n, vocab] what directions [n, d_model] add to the logits where the norm divides by 1 and no logit
        is near the soft cap.
        """
        x = directions if self.norm is None else self.norm.linear(directions)
        if self.projection is not None:
            x = x @ self.projection.weight.float().T
        return (x * self.scale) @ self.unembed.W_U.float()

    def offset(self) -> Tensor:
        """[vocab] the logits where the final norm gives its bias alone: what they are whatever is read out,
        but for the soft cap.
        """
        W_U = self.unembed.W_U
        x = W_U.new_zeros(1, 1, W_U.shape[0])
        if self.norm is not None:
            probe = torch.linspace(-1, 1, len(self.norm.gain), device=W_U.device, dtype=W_U.dtype)[None, None]
            x = (self.norm.module(probe) + self.norm.module(-probe)) / 2  # what is odd cancels
            x = x if self.projection is None else self.projection(x)
        return (self.unembed(x) * self.scale)[0, 0].float()

    def rows(self) -> Tensor:
        """[vocab, d_model] rows whose product with a direction is its effect on each token's logit."""
        rows = self.unembed.W_U.float().T * self.scale
        if self.projection is not None:
            rows = rows @ self.projection.weight.float()
        if self.norm is not None:
            rows = rows * self.norm.gain
            rows = rows - rows.mean(-1, keepdim=True) if self.norm.centres else rows
        return rows.contiguous()


@torch.inference_mode()
def measure_readout(bridge: Any, token: int) -> Readout:
    """The readout of a transformer-lens bridge; `token` is any id that the model embeds.

    Raises ModelError: the model's logits are not this map of the residual stream after its last block.
    """
    weights = bridge.W_E
    draw = torch.Generator().manual_seed(0)
    probes = torch.randn(2, 4, bridge.cfg.d_model, generator=draw) + 0.5
    probes = probes.to(weights.device, weights.dtype)
    expected = _logits_of_model(bridge, token, probes)
    module = getattr(bridge, "ln_final", None)
    norm = None if module is None else _measure_norm(module, probes)
    readout = Readout(norm, getattr(bridge, "project_out", None), bridge.unembed, 1.0, None)
    plain = readout.logits(probes).float()
    if plain.shape != expected.shape:
        raise ModelError(
            f"its unembedding has {plain.shape[-1]:,} logits and the model {expected.shape[-1]:,}"
        )
    _check_effect(readout, probes, plain)
    candidates = [
        readout._replace(scale=_scale(plain, expected, cap), cap=cap) for cap in (None, *_soft_caps(bridge))
    ]
    best = min(candidates, key=lambda each: float((each.logits(probes).float() - expected).abs().max()))
    if _agree(best.logits(probes), expected, weights.dtype):
        return best
    raise ModelError(
        "its logits are not the unembedding of its final norm on the residual stream after the last block"
        " (up to a scale and a soft cap)"
    )


def _logits_of_model(bridge: Any, token: int, residual: Tensor) -> Tensor:
    """Logits of a forward pass in which the last block gives `residual`."""
    tokens = torch.full(residual.shape[:2], token, device=residual.device)
    replaced: list[Tensor] = []

    def replace(stream: Tensor) -> Tensor:
        if stream.shape != residual.shape:
            raise ModelError(
                f"its last block gives {list(stream.shape)} numbers for {list(tokens.shape)} tokens and not"
                f" one residual stream of width {residual.shape[-1]}"
            )
        replaced.append(stream)
        return residual

    try:
        with patched(bridge, {bridge.cfg.n_layers - 1: replace}):
            logits = bridge(tokens, return_type="logits")
    except ModelError:
        raise
    except Exception as error:  # whatever the architecture's own code raises
        reason = str(error).partition("\n")[0]
        raise ModelError(
            f"its last block's output cannot be replaced ({type(error).__name__}: {reason})"
        ) from error
    if len(replaced) != 1:
        raise ModelError(f"its last block runs {len(replaced)} times in a forward pass and not once")
    return logits.float()


def _measure_norm(module: Any, probes: Tensor) -> FinalNorm:
    """The half difference of the norm at x and at −x is gain · y / rms(y): least squares give the gain, and
    the smaller error tells LayerNorm from RMSNorm.
    """
    odd = (module(probes).float() - module(-probes).float()) / 2
    fits: list[tuple[float, FinalNorm]] = []
    for centres in (False, True):
        y = probes.float()
        y = y - y.mean(-1, keepdim=True) if centres else y
        unit = y * y.square().mean(-1, keepdim=True).rsqrt()
        gain = _exact((odd * unit).sum((0, 1)) / unit.square().sum((0, 1)), module, probes.dtype)
        fits.append((float((odd - gain * unit).abs().max()), FinalNorm(module, gain, centres)))
    error, norm = min(fits, key=lambda fit: fit[0])
    if error > _tolerance(probes.dtype) * float(odd.abs().max()):
        kind = type(getattr(module, "original_component", module)).__name__
        raise ModelError(f"its final norm ({kind}) is neither a LayerNorm nor an RMSNorm")
    return norm


def _exact(gain: Tensor, module: Any, dtype: torch.dtype) -> Tensor:
    """The parameter that a measured gain is, free of rounding: w, 1 + w or 1; else the gain as measured."""
    weight = getattr(module, "weight", None)
    parameters = [torch.ones_like(gain)]
    if isinstance(weight, Tensor) and weight.shape == gain.shape:
        parameters += [weight.float(), 1 + weight.float()]
    return next((each for each in parameters if _agree(gain, each, dtype)), gain)


def _check_effect(readout: Readout, probes: Tensor, logits: Tensor) -> None:
    """Raises ModelError where the weights do not multiply as the modules do."""
    y = probes.float()
    if readout.norm is not None:
        centred = y - y.mean(-1, keepdim=True) if readout.norm.centres else y
        y = y / centred.square().mean(-1, keepdim=True).sqrt()
    expected = (logits - readout.logits(-probes).float()) / 2
    if not _agree(readout.effect(y.flatten(0, 1)).view_as(expected), expected, probes.dtype):
        raise ModelError("its unembedding is not a matrix product")


def _soft_caps(bridge: Any) -> list[float]:
    """The soft caps that the configurations of the bridge and of the model name."""
    configs = [bridge.cfg, getattr(bridge.original_model, "config", None)]
    configs += [getattr(config, "text_config", None) for config in configs]
    values = [getattr(config, name, None) for config in configs for name in SOFT_CAPS]
    return sorted({float(value) for value in values if isinstance(value, int | float) and value > 0})


def _scale(plain: Tensor, expected: Tensor, cap: float | None) -> float:
    """The factor on the logits, by least squares; exactly 1 where it is 1 up to rounding."""
    if cap is not None:
        inside = expected.abs() < 0.9 * cap
        plain, expected = plain[inside], cap * torch.atanh(expected[inside] / cap)
    scale = float((plain * expected).sum() / plain.square().sum().clamp_min(1e-30))
    return 1.0 if abs(scale - 1) < 1e-4 else scale


def _agree(ours: Tensor, theirs: Tensor, dtype: torch.dtype) -> bool:
    spread = (theirs - theirs.mean(-1, keepdim=True)).abs().max() if theirs.ndim > 1 else theirs.abs().max()
    return bool((ours.float() - theirs).abs().max() <= _tolerance(dtype) * spread)


def _tolerance(dtype: torch.dtype) -> float:
    """Largest difference, as a share of the spread of the values."""
    return 1e-3 if dtype in (torch.float32, torch.float64) else 3e-2
