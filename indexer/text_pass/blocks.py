"""The text in blocks of passages: the unit in which a pass over it is saved, resumed and divided into shards.

A block is read, batched and summed by itself, so that its counts do not depend on which other blocks are read
with it.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np

from lexiscope.errors import LexiscopeError

BLOCK_PASSAGES = 256


class Block(NamedTuple):
    number: int
    first: int
    """number of its first passage in the text"""
    passages: list[np.ndarray]
    """token ids, BOS included"""

    @property
    def n_tokens(self) -> int:
        return sum(len(passage) - 1 for passage in self.passages)


def blocks(passages: Iterable[np.ndarray], size: int = BLOCK_PASSAGES) -> Iterator[Block]:
    """Blocks of `size` passages, in order; the last may be smaller."""
    rest = iter(passages)
    for number, some in enumerate(iter(lambda: list(islice(rest, size)), [])):
        yield Block(number, number * size, some)


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
