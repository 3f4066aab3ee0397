"""The engine of one machine: blocks one after another in this process. `ray_engine` does the same on Ray.

An engine reads the blocks it is given into a state that may hold others already, and hands that state over to
be saved from time to time.
"""

import time
from collections.abc import Callable, Iterable
from typing import Protocol

from indexer.counts.state import PassState
from indexer.text_pass.blocks import Block
from indexer.text_pass.text_pass import TextPass

SAVE_SECONDS = 60.0
"""Seconds of reading between saves, at least; twenty times as long as a save takes, where that is more."""


class PassEngine(Protocol):
    def __call__(
        self,
        state: PassState,
        blocks: Iterable[Block],
        *,
        advance: Callable[[int], None],
        save: Callable[[PassState], None],
    ) -> PassState:
        """The state with all blocks counted. `advance` is called with the tokens of each block read."""


class SaveSchedule:
    """Saves so seldom that saving takes at most a twentieth of the time."""

    def __init__(self, save: Callable[[PassState], None], seconds: float) -> None:
        self._save, self._seconds, self._due = save, seconds, time.monotonic() + seconds

    @property
    def due(self) -> bool:
        return time.monotonic() >= self._due

    def __call__(self, state: PassState) -> None:
        begun = time.monotonic()
        self._save(state)
        ended = time.monotonic()
        self._due = ended + max(self._seconds, 20 * (ended - begun))


def local_engine(text_pass: TextPass, save_seconds: float = SAVE_SECONDS) -> PassEngine:
    def read(
        state: PassState,
        blocks: Iterable[Block],
        *,
        advance: Callable[[int], None],
        save: Callable[[PassState], None],
    ) -> PassState:
        schedule = SaveSchedule(save, save_seconds)
        text_pass.state = state
        for block in blocks:
            text_pass.read(block)
            advance(block.n_tokens)
            if schedule.due:
                text_pass.drain()
                schedule(state)
        return text_pass.take_state()

    return read
