"""Rows of one language model that share a key-value cache. Rows join with a prompt and leave at any time.

Rows shorter than the longest are padded on the left and masked, so that each row counts positions from its
own first token. Logits come out and drawn tokens go in; nothing is sampled here.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

from lexiscope.language_model import LanguageModel, Patch


class PaddedBatch:
    """The rows being generated with one model. `lengths` has the number of tokens of each row, in the order
    in which the rows joined.
    """

    def __init__(self, model: LanguageModel) -> None:
        self.model = model
        self.lengths: list[int] = []
        self._cache: Any = None

    @property
    def joinable(self) -> bool:
        """False while it has rows of an architecture whose cache cannot be padded (sliding windows, state
        spaces).
        """
        return not self.lengths or _is_plain(self._cache)

    @torch.inference_mode()
    def join(self, prompt: Tensor, patches: Mapping[int, Patch] | None = None) -> Tensor:
        """Logits [rows, vocab] after `prompt` [rows, positions]. The new rows come after the present ones."""
        logits, cache = self.model.advance(prompt, patches=patches)
        if self.lengths:
            _append(self._cache, cache)
        else:
            self._cache = cache
        self.lengths += [prompt.shape[1]] * len(prompt)
        return logits[:, -1].float()

    @torch.inference_mode()
    def step(self, tokens: Tensor, patches: Mapping[int, Patch] | None = None) -> Tensor:
        """Logits [rows, vocab] after one more token in each row, `tokens` [rows]."""
        self.lengths = [length + 1 for length in self.lengths]
        logits, self._cache = self.model.advance(
            tokens[:, None], cache=self._cache, mask=self._mask(), patches=patches
        )
        return logits[:, -1].float()

    def _mask(self) -> Tensor | None:
        """[rows, positions] 0 on padding; None if no row is padded."""
        longest = max(self.lengths)
        if min(self.lengths) == longest:
            return None
        lengths = torch.tensor(self.lengths, device=self.model.device)[:, None]
        return (torch.arange(longest, device=self.model.device) >= longest - lengths).long()

    @torch.inference_mode()
    def leave(self, rows: Sequence[int]) -> None:
        """Remove rows. The others keep their order; padding that no row needs any more is removed too."""
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


def _append(cache: Any, other: Any) -> None:
    """Append the rows of another cache; the shorter of the two is padded on the left."""
    for own, new in zip(cache.layers, other.layers, strict=True):
        own.keys = _stacked(own.keys, new.keys)
        own.values = _stacked(own.values, new.values)


def _stacked(first: Tensor, second: Tensor) -> Tensor:
    """[rows of both, heads, positions of the longer, width]"""
    length = max(first.shape[2], second.shape[2])
    return torch.cat(
        [torch.nn.functional.pad(part, (0, 0, length - part.shape[2], 0)) for part in (first, second)]
    )


def _select(cache: Any, rows: Tensor, padding: int) -> None:
    """Keep these rows, without their first `padding` positions."""
    for layer in cache.layers:
        layer.keys = layer.keys[rows, :, padding:].contiguous()
        layer.values = layer.values[rows, :, padding:].contiguous()
