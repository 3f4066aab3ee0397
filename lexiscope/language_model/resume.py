"""Logits of a changed residual stream without running the blocks before it.

Not every architecture allows this: each short cut is checked once against the plain forward pass, and the
plain pass is used where they differ.
"""

from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from lexiscope.language_model.patching import captured, patched, unembed_from

ROWS_AT_ONCE = 4096
"""Tokens in one pass where each changed position costs the passage before it."""
TOLERANCE = 1e-4


class ResumedPasses:
    """Forward passes of one model that start from a given residual stream.

    Tensors are on the model's device. `bos` fills the places of appended positions, whose token is not read.
    """

    def __init__(self, bridge: Any, *, bos: int, device: torch.device, vocab_size: int) -> None:
        self._bridge = bridge
        self._bos = bos
        self._device = device
        self._vocab_size = vocab_size
        self._n_layers: int = bridge.cfg.n_layers
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

    def logits_at(
        self, tokens: Tensor, layer: int, stream: Tensor, positions: Tensor, residuals: Tensor
    ) -> Tensor:
        """[m, vocab] logits at each of `positions` [m] of one passage `tokens` [1, n], when the residual
        stream after block `layer` is `residuals` [m, d_model] at that position and `stream` [1, n, d_model]
        at the others.

        All changed positions are appended to the passage; each attends to the positions before its own and to
        itself. One then costs about one token's pass through the remaining blocks.
        """
        if self.appends(tokens.shape[1], len(positions)):
            return self._appended(tokens, layer, stream, positions, residuals)
        return self._one_by_one(tokens, layer, stream, positions, residuals)

    @cached_property
    def skips_blocks(self) -> bool:
        """Whether the blocks up to a layer can be left out. Some architectures' blocks return more than a
        tensor, or share state with later ones.
        """
        tokens = torch.full((2, 3), self._bos, device=self._device)
        layer = self._n_layers // 2
        residual = torch.randn(2, 3, self._bridge.cfg.d_model, generator=torch.Generator().manual_seed(0))
        residual = residual.to(self._device, self._bridge.W_E.dtype)
        with patched(self._bridge, {layer: lambda _: residual}):
            expected = self._bridge(tokens, return_type="logits")
        try:
            skipped = self._skipping_blocks(tokens, layer, residual)
        except Exception:  # the architecture's own code, given a tensor it does not expect
            return False
        return torch.allclose(skipped, expected, rtol=TOLERANCE, atol=TOLERANCE)

    def appends(self, n: int, m: int) -> bool:
        """Whether `m` positions can be appended to a passage of `n` tokens. Checked once for each power of
        two of both: an architecture may attend only to the last so many positions.
        """
        n = min(1 << (n - 1).bit_length(), self._context_length)
        m = 64 if m <= 64 else 1 << (m - 1).bit_length()
        if (n, m) not in self._append_allowed:
            self._append_allowed[n, m] = self.skips_blocks and self._append_agrees(n, m)
        return self._append_allowed[n, m]

    def _append_agrees(self, n: int, m: int) -> bool:
        draw = torch.Generator().manual_seed(0)
        tokens = torch.randint(self._vocab_size, (1, n), generator=draw).to(self._device)
        layer = self._n_layers // 2 - 1
        with captured(self._bridge, [layer]) as streams:
            self._bridge(tokens, return_type=None, stop_at_layer=layer + 1)
        stream = streams[layer]
        positions = torch.tensor([n // 3, n // 2, n - 1], device=self._device)
        residuals = stream[0, positions] * 0.5
        expected = self._one_by_one(tokens, layer, stream, positions, residuals)
        repeated = torch.arange(max(m, 3), device=self._device) % 3
        try:
            appended = self._appended(tokens, layer, stream, positions[repeated], residuals[repeated])
        except Exception:  # as in `skips_blocks`
            return False
        return torch.allclose(appended, expected[repeated], rtol=TOLERANCE, atol=TOLERANCE)

    def _skipping_blocks(self, tokens: Tensor, layer: int, residual: Tensor, **options: Tensor) -> Tensor:
        """transformer-lens's `start_at_layer` still computes the blocks before; here each returns `residual`
        at once.
        """
        skipped = list(self._bridge.blocks)[: layer + 1]
        try:
            for block in skipped:
                vars(block)["forward"] = lambda *args, **kwargs: residual
            return self._bridge(tokens, return_type="logits", **options)
        finally:
            for block in skipped:
                vars(block).pop("forward", None)

    def _appended(
        self, tokens: Tensor, layer: int, stream: Tensor, positions: Tensor, residuals: Tensor
    ) -> Tensor:
        n, m, device = tokens.shape[1], len(positions), tokens.device
        index = torch.arange(n + m, device=device)
        position = torch.cat([index[:n], positions.to(device)])
        attends = (index[None, :n] < position[:, None]) & (index[None, :n] < n)
        attends = torch.cat([attends, torch.zeros(n + m, m, dtype=torch.bool, device=device)], 1)
        attends.fill_diagonal_(True)
        mask = torch.zeros(attends.shape, device=device)
        mask.masked_fill_(~attends, torch.finfo(torch.float32).min)
        extended = torch.cat([tokens, tokens.new_full((1, m), self._bos)], 1)
        options = {"attention_mask": mask[None, None], "position_ids": position[None]}
        with unembed_from(self._bridge, n):
            residual = torch.cat([stream, residuals[None]], 1)
            return self._skipping_blocks(extended, layer, residual, **options)[0]

    def _one_by_one(
        self, tokens: Tensor, layer: int, stream: Tensor, positions: Tensor, residuals: Tensor
    ) -> Tensor:
        logits = residuals.new_empty(len(positions), self._vocab_size)
        for position in positions.unique().tolist():
            rows = (positions == position).nonzero().squeeze(1)
            for part in rows.split(max(1, ROWS_AT_ONCE // (position + 1))):
                changed = stream[:, : position + 1].repeat(len(part), 1, 1)
                changed[:, position] = residuals[part]
                prefix = tokens[:, : position + 1].repeat(len(part), 1)
                with unembed_from(self._bridge, position):
                    logits[part] = self.logits(prefix, layer, changed)[:, 0]
        return logits
