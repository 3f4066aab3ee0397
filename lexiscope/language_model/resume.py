"""Passes of the model from a changed residual stream on, without the blocks before it.

Not every architecture allows this: each short cut is checked once against the plain forward pass, and the
plain pass is used where they differ.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache

from lexiscope.language_model.patching import captured, patched, unembed_from

ROWS_AT_ONCE = 4096
"""Tokens in one pass where each changed position costs the passage before it."""
TOLERANCE = 1e-4


class ReadPassages(NamedTuple):
    """What the unchanged model computed of some passages, for passes that change single positions of them."""

    tokens: Tensor
    """[batch, n] shorter passages are padded on the right"""
    streams: dict[int, Tensor]
    """{layer: [batch, n, d_model]}"""
    last: Tensor
    """[batch, n, d_model] after the last block"""
    cache: "PrefixCache"


class PrefixCache(DynamicCache):  # type: ignore[misc]
    """Keys and values of passages. Once `complete`, it forgets the positions that a pass appends."""

    complete = False

    def update(self, keys: Tensor, values: Tensor, layer: int, *args: Any, **kwargs: Any) -> Any:
        if not self.complete:
            return super().update(keys, values, layer, *args, **kwargs)
        kept = self.layers[layer]
        return torch.cat([kept.keys, keys], -2), torch.cat([kept.values, values], -2)


class ResumedPasses:
    """Forward passes of one model that start from a given residual stream.

    Tensors are on the model's device. `bos` fills the places of appended positions, whose token is not read.
    """

    def __init__(self, bridge: Any, *, bos: int, device: torch.device, vocab_size: int) -> None:
        self._bridge = bridge
        self._bos = bos
        self._device = device
        self._vocab_size = vocab_size
        self._last: int = bridge.cfg.n_layers - 1
        self._context_length: int = bridge.cfg.n_ctx
        self._append_allowed: dict[tuple[int, int], bool] = {}

    def logits(self, tokens: Tensor, layer: int, residual: Tensor) -> Tensor:
        """[batch, positions, vocab] logits of `tokens` [batch, positions] with the residual stream after
        block `layer` replaced by `residual` [batch, positions, d_model].
        """
        if self.skips_blocks:
            return self._skipping_blocks(tokens, layer, residual)
        with patched(self._bridge, {layer: lambda _: residual}):
            return self._bridge(tokens, return_type="logits")

    def read(self, tokens: Tensor, layers: Sequence[int]) -> ReadPassages:
        """One pass over passages, tokens [batch, n]; the streams of `layers` are kept."""
        cache = PrefixCache()
        with captured(self._bridge, [*layers, self._last]) as streams, self._without_logits(tokens):
            self._bridge(tokens, return_type=None, past_key_values=cache)
        cache.complete = True
        return ReadPassages(tokens, {layer: streams[layer] for layer in layers}, streams[self._last], cache)

    def last_residual(self, tokens: Tensor, layer: int, residual: Tensor) -> Tensor:
        """[batch, positions, d_model] after the last block, with the stream after block `layer` replaced."""
        with captured(self._bridge, [self._last]) as streams, self._without_logits(tokens):
            self.logits(tokens, layer, residual)
        return streams[self._last]

    def changed(self, read: ReadPassages, layer: int, positions: Tensor, residuals: Tensor) -> Tensor:
        """[batch, m, d_model] the stream after the last block at each of `positions` [batch, m] when the
        stream after block `layer` is `residuals` [batch, m, d_model] at that position alone.

        All changed positions are appended to the passages; each attends to the positions before its own and
        to itself. One then costs about one token's pass through the remaining blocks.
        """
        if layer == self._last or not positions.numel():
            return residuals
        if self.appends(read.tokens.shape[1], positions.shape[1]):
            return self._appended(read, layer, positions, residuals)
        return self._one_by_one(read, layer, positions, residuals)

    @cached_property
    def skips_blocks(self) -> bool:
        """Whether the blocks up to a layer can be left out. Some architectures' blocks return more than a
        tensor, or share state with later ones.
        """
        tokens = torch.full((2, 3), self._bos, device=self._device)
        layer = (self._last + 1) // 2
        residual = torch.randn(2, 3, self._bridge.cfg.d_model, generator=torch.Generator().manual_seed(0))
        residual = residual.to(self._device, self._bridge.W_E.dtype)
        with torch.autocast(self._device.type, enabled=False):
            with patched(self._bridge, {layer: lambda _: residual}):
                expected = self._bridge(tokens, return_type="logits")
            try:
                skipped = self._skipping_blocks(tokens, layer, residual)
            except Exception:  # the architecture's own code, given a tensor it does not expect
                return False
        return torch.allclose(skipped, expected, rtol=TOLERANCE, atol=TOLERANCE)

    def appends(self, n: int, m: int) -> bool:
        """Whether `m` positions can be appended to passages of `n` tokens. Checked once for each power of
        two of both: an architecture may attend only to the last so many positions.
        """
        n = min(1 << (n - 1).bit_length(), self._context_length)
        m = 64 if m <= 64 else 1 << (m - 1).bit_length()
        if (n, m) not in self._append_allowed:
            self._append_allowed[n, m] = self.skips_blocks and self._append_agrees(n, m)
        return self._append_allowed[n, m]

    def _append_agrees(self, n: int, m: int) -> bool:
        """In float32: what is checked is the arithmetic and not its precision."""
        draw = torch.Generator().manual_seed(0)
        tokens = torch.randint(self._vocab_size, (1, n), generator=draw).to(self._device)
        layer = (self._last + 1) // 2 - 1
        positions = torch.tensor([[n // 3, n // 2, n - 1]], device=self._device)
        repeated = torch.arange(max(m, 3), device=self._device) % 3
        with torch.autocast(self._device.type, enabled=False):
            try:
                read = self.read(tokens, [layer])
                residuals = read.streams[layer][:, positions[0]] * 0.5
                appended = self._appended(read, layer, positions[:, repeated], residuals[:, repeated])
            except Exception:  # as in `skips_blocks`
                return False
            expected = self._one_by_one(read, layer, positions, residuals)
        size = float(expected.abs().amax())
        return torch.allclose(appended, expected[:, repeated], rtol=TOLERANCE, atol=TOLERANCE * max(1, size))

    def _without_logits(self, tokens: Tensor) -> Any:
        return unembed_from(self._bridge, tokens.shape[1])

    def _skipping_blocks(self, tokens: Tensor, layer: int, residual: Tensor, **options: Any) -> Tensor:
        """transformer-lens's `start_at_layer` still computes the blocks before; here each returns `residual`
        at once.
        """
        skipped = list(self._bridge.blocks)[: layer + 1]
        try:
            for block in skipped:
                vars(block)["forward"] = lambda *args, **kwargs: residual
            return self._bridge(tokens, **({"return_type": "logits"} | options))
        finally:
            for block in skipped:
                vars(block).pop("forward", None)

    def _appended(self, read: ReadPassages, layer: int, positions: Tensor, residuals: Tensor) -> Tensor:
        batch, n, m = *read.tokens.shape, positions.shape[1]
        before = torch.arange(n, device=self._device) < positions[..., None]
        itself = torch.eye(m, dtype=torch.bool, device=self._device).expand(batch, m, m)
        attends = torch.cat([before, itself], -1)
        mask = torch.zeros(attends.shape, device=self._device)
        mask.masked_fill_(~attends, torch.finfo(torch.float32).min)
        tokens = torch.full_like(positions, self._bos)
        with captured(self._bridge, [self._last]) as streams, self._without_logits(tokens):
            self._skipping_blocks(
                tokens,
                layer,
                residuals,
                attention_mask=mask[:, None],
                position_ids=positions,
                past_key_values=read.cache,
            )
        return streams[self._last]

    def _one_by_one(self, read: ReadPassages, layer: int, positions: Tensor, residuals: Tensor) -> Tensor:
        found = torch.empty_like(residuals)
        for row, tokens in enumerate(read.tokens):
            stream = read.streams[layer][row]
            for position in positions[row].unique().tolist():
                places = (positions[row] == position).nonzero().squeeze(1)
                for part in places.split(max(1, ROWS_AT_ONCE // (position + 1))):
                    changed = stream[: position + 1].repeat(len(part), 1, 1)
                    changed[:, position] = residuals[row, part]
                    prefix = tokens[: position + 1].repeat(len(part), 1)
                    with captured(self._bridge, [self._last]) as streams, self._without_logits(prefix):
                        self.logits(prefix, layer, changed)
                    found[row, part] = streams[self._last][:, position]
        return found
