"""Passages of similar length, padded into batches."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Batch(NamedTuple):
    """Passages padded on the right (a causal model does not attend to the padding)."""

    tokens: Tensor
    """[batch, positions] token ids"""
    lengths: Tensor
    """[batch] positions of each passage, BOS included"""
    passages: list[int]
    """index of each row's passage in the stream"""

    @property
    def rows(self) -> list[np.ndarray]:
        """The passages again, without padding."""
        return [ids[:length] for ids, length in zip(self.tokens.numpy(), self.lengths.tolist(), strict=True)]

    @property
    def mask(self) -> Tensor:
        """[batch, positions] True where a position belongs to the passage and is not position 0, which is
        never encoded.
        """
        position = torch.arange(self.tokens.shape[1])
        return (position[None] > 0) & (position[None] < self.lengths[:, None])

    @property
    def next_tokens(self) -> Tensor:
        """[batch, positions] the token that follows, −1 after a passage's last."""
        following = torch.full_like(self.tokens, -1)
        following[:, :-1] = self.tokens[:, 1:]
        position = torch.arange(self.tokens.shape[1])
        return following.masked_fill(position[None] >= self.lengths[:, None] - 1, -1)


def batches(stream: Iterable[np.ndarray], *, tokens: int = 8192, window: int = 512) -> Iterator[Batch]:
    """Batches of about `tokens` padded tokens at most. Each `window` passages are sorted by length, so that
    there is little padding.
    """
    waiting: list[tuple[int, np.ndarray]] = []
    for index, ids in enumerate(stream):
        waiting.append((index, ids))
        if len(waiting) == window:
            yield from _padded(waiting, tokens)
            waiting = []
    yield from _padded(waiting, tokens)


def _padded(passages: list[tuple[int, np.ndarray]], tokens: int) -> Iterator[Batch]:
    """All of `passages` (index, ids), the longest first."""
    passages.sort(key=lambda passage: len(passage[1]))
    while passages:
        longest = len(passages[-1][1])
        rows = [passages.pop() for _ in range(min(len(passages), max(1, tokens // longest)))]
        padded = np.full((len(rows), longest), rows[0][1][0], dtype=np.int64)
        for row, (_, ids) in enumerate(rows):
            padded[row, : len(ids)] = ids
        lengths = torch.tensor([len(ids) for _, ids in rows])
        yield Batch(torch.from_numpy(padded), lengths, [index for index, _ in rows])
