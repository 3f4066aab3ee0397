"""Where training takes its activations from: a cache that holds them all, or a bounded buffer that the model
refills as training goes on.

Both are a series of `Filling`s, the same in every run of one plan. Which tokens a filling holds is known from
the text alone, so that a resumed run reads the first one, which it starts from, and skips the others that it
has trained on without running the model.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from lexiscope.errors import TextError
from lexiscope.language_model import LanguageModel, Point
from trainer.activations.cache import Origin, cached
from trainer.activations.harvest import Harvest, Positions, count, harvest

Read = Callable[[Sequence[Point], Callable[[int], None]], AbstractContextManager[Harvest]]
"""(layers, advance) → their activations, as long as the block lasts; `advance` is called with the number of
tokens read since its last call.
"""


class Filling(NamedTuple):
    """Activations to train on for a while, and how to read them."""

    tokens: int
    """how many it holds, of the positions that are kept"""
    passages: int
    """how many it holds"""
    nth: int
    """0 for the first, counted through all epochs of the text: with the seed, it fixes the order of training
    """
    epoch: int
    """how often the text has been read through before"""
    last: bool
    """it holds the whole text: train on it, epoch after epoch, to the end"""
    read: Read

    def steps(self, batch: int, batch_of: Literal["tokens", "passages"]) -> int:
        """Of one epoch over it."""
        return self.tokens // batch if batch_of == "tokens" else -(-self.passages // batch)


def from_cache(
    model: LanguageModel, passages: Sequence[np.ndarray], *, origin: Origin, folder: Path
) -> Iterator[Filling]:
    """One filling, kept under `folder` (see `trainer.cache`)."""

    def read(layers: Sequence[Point], advance: Callable[[int], None]) -> AbstractContextManager[Harvest]:
        return nullcontext(
            cached(model, passages, layers=layers, origin=origin, folder=folder, advance=advance)
        )

    yield Filling(count(passages, origin.positions), len(passages), 0, 0, True, read)


def from_model(
    model: LanguageModel,
    text: Callable[[], Iterable[np.ndarray]],
    *,
    size: int,
    positions: Positions = "after-first",
) -> Iterator[Filling]:
    """Fillings of `size` tokens, each read by the model when its turn comes; the text starts again when it
    ends.

    `text` opens the stream of passages. A text that one filling holds is read once.
    """
    index = 0
    for epoch in itertools.count():
        fillings = split(text(), size)
        passages = next(fillings, [])
        if not passages:
            raise TextError("The text holds no passage to train on.")
        following = next(fillings, None)
        whole = following is None and index == 0
        while True:
            read = _reader(model, passages, positions)
            yield Filling(count(passages, positions), len(passages), index, epoch, whole, read)
            index += 1
            if whole:
                return
            if following is None:
                break
            passages, following = following, next(fillings, None)


def _reader(model: LanguageModel, passages: Sequence[np.ndarray], positions: Positions) -> Read:
    return lambda layers, advance: harvest(
        model, passages, layers=layers, positions=positions, advance=advance
    )


def split(stream: Iterable[np.ndarray], size: int) -> Iterator[list[np.ndarray]]:
    """The passages in lists of exactly `size` tokens (BOS not counted), the last as it comes."""
    passages = iter(stream)
    while part := list(cropped(passages, size)):
        yield part


def cropped(stream: Iterable[np.ndarray], tokens: int) -> Iterator[np.ndarray]:
    """The passages of the first `tokens` tokens (BOS not counted); one that reaches over is cut there."""
    left = tokens
    for passage in stream:
        part = passage[: left + 1]
        left -= len(part) - 1
        yield part
        if left == 0:
            return
