"""The engine of one machine: blocks one after another in this process. `indexer.text_pass.ray_engine` is the same on Ray.

An engine reads the blocks it is given into a state that already holds others, and hands that state over now
and then to be saved.
"""

import time
from collections.abc import Callable, Iterable
from typing import Protocol

from indexer.counts.state import State
from indexer.text_pass.blocks import Block
from indexer.text_pass.text_pass import Reading

SAVE_EVERY = 60.0
"""Seconds of reading between saves, or twenty times as long as a save takes."""


class Engine(Protocol):
    def __call__(
        self,
        state: State,
        blocks: Iterable[Block],
        *,
        advance: Callable[[int], None],
        save: Callable[[State], None],
    ) -> State: ...


class Saving:
    """Says when it is time to save, so that saving takes at most a twentieth of the time."""

    def __init__(self, save: Callable[[State], None]) -> None:
        self._save, self._due = save, time.monotonic() + SAVE_EVERY

    @property
    def due(self) -> bool:
        return time.monotonic() >= self._due

    def __call__(self, state: State) -> None:
        begun = time.monotonic()
        self._save(state)
        ended = time.monotonic()
        self._due = ended + max(SAVE_EVERY, 20 * (ended - begun))


def local(reading: Reading) -> Engine:
    def read(
        state: State,
        blocks: Iterable[Block],
        *,
        advance: Callable[[int], None],
        save: Callable[[State], None],
    ) -> State:
        saving = Saving(save)
        reading.state = state
        for block in blocks:
            reading.read(block)
            advance(block.n_tokens)
            if saving.due:
                reading.drain()
                saving(state)
        return reading.take()

    return read
