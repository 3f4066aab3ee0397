"""The rows that are being written now: those of one model share its forward passes, whoever asked for them.

A job joins with its prompt, draws from the logits it is given, puts its tokens, and waits for the next step;
it leaves when it is done or is thrown out. Hooks are set and removed within each pass, so that nothing of one
job outlives it or meets another's rows.

What rows a batch has changes the last bits of a row's logits: a matrix product may treat the last rows of a
block differently, on some CPUs and at some thread counts. So rows of one job that nothing changes are computed
once, as one row of the batch, and are equal in every bit. Rows of two batches are equal up to rounding.
"""

from collections.abc import Callable, Generator, Sequence
from enum import Enum
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from lexiscope.language_model import LanguageModel
from server.live.decoding import Batch
from server.live.interventions import Plan, patches
from server.live.messages import Event

R = TypeVar("R")


class Pause(Enum):
    """What a job waits for when it lets the others go on."""

    STEP = "the next step of its batch"
    TURN = "nothing: the next turn will do"
    LOAD = "something that another thread does"


Work = Generator[Event | Pause, None, R]
"""A job in progress: gives events and pauses, returns a result."""


class Writer:
    """The rows of one job in a batch. `plans` has a plan for each row of the batch, `places` the batch's row of
    each row of the job.
    """

    def __init__(
        self, group: "_Group", logits: Tensor, rows: "_SharedRows", cancelled: Callable[[], bool]
    ) -> None:
        self.plans, self._places = rows
        self._first = [self._places.index(row) for row in range(len(self.plans))]
        self.cancelled = cancelled
        self.tokens: Tensor | None = None
        self._group = group
        self._logits = logits
        self._error: BaseException | None = None

    @property
    def logits(self) -> Tensor:
        """[rows, vocab] after the last step. Raises what that step raised."""
        if self._error is not None:
            raise self._error
        return self._logits[self._places]

    def put(self, tokens: Tensor) -> None:
        """The next token of each row, to be read by the next step."""
        self.tokens = tokens[self._first]

    def take(self, logits: Tensor) -> None:
        self._logits, self.tokens = logits, None

    def fail(self, error: BaseException) -> None:
        self._error = error

    def leave(self) -> None:
        """Take the rows out. May be called twice."""
        self._group.drop(self)


class _SharedRows(NamedTuple):
    """Rows of a job, those that nothing changes computed once."""

    plans: list[Plan | None]
    """one a row of the batch"""
    places: list[int]
    """one a row of the job: its row among `plans`"""

    @classmethod
    def of(cls, plans: Sequence[Plan | None]) -> "_SharedRows":
        rows: list[Plan | None] = []
        places: list[int] = []
        unsteered: int | None = None
        for plan in plans:
            steers = plan is not None and plan.steers
            if not steers and unsteered is not None:
                places.append(unsteered)
                continue
            if not steers:
                unsteered = len(rows)
            places.append(len(rows))
            rows.append(plan if steers else None)
        return cls(rows, places)


class _Group:
    """The writers of one batch, in the order of its rows."""

    def __init__(self, model: LanguageModel) -> None:
        self.batch = Batch(model)
        self.writers: list[Writer] = []

    def add(self, prompt: Sequence[int], rows: _SharedRows, cancelled: Callable[[], bool]) -> Writer:
        tokens = torch.tensor([prompt] * len(rows.plans), device=self.batch.model.device)
        patched = patches(rows.plans, [0] * len(rows.plans), cancelled=cancelled)
        writer = Writer(self, self.batch.join(tokens, patched), rows, cancelled)
        self.writers.append(writer)
        return writer

    def drop(self, writer: Writer) -> None:
        if writer not in self.writers:
            return
        place = self.writers.index(writer)
        start = sum(len(other.plans) for other in self.writers[:place])
        self.writers.pop(place)
        self.batch.leave(range(start, start + len(writer.plans)))

    def step(self) -> None:
        """One token for every row. An error is each writer's, and all rows leave: half a pass may be in the
        cache.
        """
        tokens = [writer.tokens for writer in self.writers if writer.tokens is not None]
        if len(tokens) < len(self.writers):
            raise RuntimeError("a writer waits for a step without having put its tokens")
        plans = [plan for writer in self.writers for plan in writer.plans]
        gone = [writer.cancelled for writer in self.writers]
        try:
            patched = patches(
                plans, self.batch.lengths, cancelled=lambda: all(cancelled() for cancelled in gone)
            )
            logits = self.batch.step(torch.cat(tokens), patched)
        except Exception as error:
            for writer in self.writers:
                writer.fail(error)
            self.writers, self.batch = [], Batch(self.batch.model)
            return
        for writer, own in zip(
            self.writers, logits.split([len(writer.plans) for writer in self.writers]), strict=True
        ):
            writer.take(own)


class Batches:
    """Every batch under way, one a model (several where an architecture's rows cannot be padded)."""

    def __init__(self) -> None:
        self._groups: list[_Group] = []

    def join(
        self,
        model: LanguageModel,
        prompt: Sequence[int],
        plans: Sequence[Plan | None],
        *,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Writer:
        """A row a plan, each of which goes on from BOS and `prompt`. Raises Cancelled."""
        tokens, rows = [model.bos, *prompt], _SharedRows.of(plans)
        for group in self._groups:
            if group.batch.model is model and group.batch.joinable:
                return group.add(tokens, rows, cancelled)
        group = _Group(model)
        writer = group.add(tokens, rows, cancelled)
        self._groups.append(group)
        return writer

    def step(self) -> int:
        """One step of every batch; the rows that were written."""
        self._groups = [group for group in self._groups if group.writers]
        rows = sum(len(writer.plans) for group in self._groups for writer in group.writers)
        for group in self._groups:
            group.step()
        return rows
