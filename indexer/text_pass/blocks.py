"""The text in blocks of passages: what a finished part of an index is counted in, and what shards divide.

A block is read by itself, batched by itself and summed by itself, so that what it teaches does not depend on
who reads it.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np

from lexiscope.errors import LexiscopeError

BLOCK = 256
"""Passages a block."""


class Block(NamedTuple):
    number: int
    first: int
    """number of its first passage in the text"""
    passages: list[np.ndarray]
    """token ids, BOS included"""

    @property
    def n_tokens(self) -> int:
        return sum(len(passage) - 1 for passage in self.passages)


def blocks(stream: Iterable[np.ndarray]) -> Iterator[Block]:
    rest = iter(stream)
    for number, passages in enumerate(iter(lambda: list(islice(rest, BLOCK)), [])):
        yield Block(number, number * BLOCK, passages)


class Shard(NamedTuple):
    """Every `of`-th block, from the `number`-th on; shards count from 1."""

    number: int
    of: int

    def holds(self, block: int) -> bool:
        return block % self.of == self.number - 1

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"


def parse_shard(text: str) -> Shard:
    """'2/8'. Raises LexiscopeError."""
    number, slash, of = text.partition("/")
    if not (slash and number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
        raise LexiscopeError(f"--shards {text} is not one of n shards: write 1/8 to 8/8 for eight of them.")
    return Shard(int(number), int(of))
