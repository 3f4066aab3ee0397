"""Rows that a language model writes side by side: each joins with its own prompt, at any time, and leaves
when it is done.

One key-value cache for all. Rows shorter than the longest are padded on the left and masked, so that every
row counts its positions from its own first token. No token is drawn here: logits come out, drawn tokens go
in.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

from lexiscope.language_model import LanguageModel, Patch


class Batch:
    """The rows of one model that are being written. `lengths` gives the tokens of each row so far, in the
    order they joined.
    """

    def __init__(self, model: LanguageModel) -> None:
        self.model = model
        self.lengths: list[int] = []
        self._cache: Any = None

    @property
    def joinable(self) -> bool:
        """False where rows are being written by an architecture whose cache cannot be padded (sliding
        windows, state spaces).
        """
        return not self.lengths or _is_plain(self._cache)

    @torch.inference_mode()
    def join(self, prompt: Tensor, patches: Mapping[int, Patch] | None = None) -> Tensor:
        """[rows, vocab] logits after `prompt` [rows, positions]; its rows stand after those already here,
        which do not move.
        """
        logits, cache = self.model.advance(prompt, patches=patches)
        if self.lengths:
            _append(self._cache, cache)
        else:
            self._cache = cache
        self.lengths += [prompt.shape[1]] * len(prompt)
        return logits[:, -1].float()

    @torch.inference_mode()
    def step(self, tokens: Tensor, patches: Mapping[int, Patch] | None = None) -> Tensor:
        """[rows, vocab] logits after one more token a row, `tokens` [rows]."""
        self.lengths = [length + 1 for length in self.lengths]
        logits, self._cache = self.model.advance(
            tokens[:, None], cache=self._cache, mask=self._mask(), patches=patches
        )
        return logits[:, -1].float()

    def _mask(self) -> Tensor | None:
        longest = max(self.lengths)
        if min(self.lengths) == longest:
            return None
        lengths = torch.tensor(self.lengths, device=self.model.device)[:, None]
        return (torch.arange(longest, device=self.model.device) >= longest - lengths).long()

    @torch.inference_mode()
    def leave(self, rows: Sequence[int]) -> None:
        """Take rows out; the others keep their order, and padding that none of them needs goes with them."""
        gone = set(rows)
        stay = [row for row in range(len(self.lengths)) if row not in gone]
        longest = max(self.lengths, default=0)
        self.lengths = [self.lengths[row] for row in stay]
        if not stay:
            self._cache = None
        elif gone:
            _select(self._cache, torch.tensor(stay, device=self.model.device), longest - max(self.lengths))


def _is_plain(cache: Any) -> bool:
    return type(cache) is DynamicCache and all(type(layer) is DynamicLayer for layer in cache.layers)


def _append(cache: Any, newcomers: Any) -> None:
    """Rows of another cache after this one's, the shorter of the two padded on the left."""
    for own, new in zip(cache.layers, newcomers.layers, strict=True):
        own.keys, own.values = (
            _stacked(getattr(own, name), getattr(new, name)) for name in ("keys", "values")
        )


def _stacked(first: Tensor, second: Tensor) -> Tensor:
    """[rows of both, heads, positions of the longer, width]"""
    length = max(first.shape[2], second.shape[2])
    return torch.cat(
        [torch.nn.functional.pad(part, (0, 0, length - part.shape[2], 0)) for part in (first, second)]
    )


def _select(cache: Any, rows: Tensor, unused: int) -> None:
    for layer in cache.layers:
        layer.keys, layer.values = (
            layer.keys[rows, :, unused:].contiguous(),
            layer.values[rows, :, unused:].contiguous(),
        )
