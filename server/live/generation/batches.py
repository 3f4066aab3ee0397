"""The batches in progress, one for each model: all jobs that use a model share its forward passes.

A job joins with its prompt, draws tokens from the logits it gets, passes the tokens on and waits for the next
step. It leaves when it is finished, cancelled or failed. Hooks are set and removed within each pass, so a
job's interventions apply to its own rows only.

The shape of a batch changes the last bits of a row's logits: on some CPUs and with some numbers of threads a
matrix product handles the last rows of a block differently. Unsteered rows of one job are therefore computed
once, as one row of the batch, which makes them equal bit for bit. Rows of different batches agree up to
rounding.
"""

from collections.abc import Callable, Generator, Sequence
from enum import Enum
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from lexiscope.language_model import LanguageModel
from server.live.generation.padded_batch import PaddedBatch
from server.live.interventions import SteerPlan, patches_of
from server.live.messages import Event

R = TypeVar("R")


class Pause(Enum):
    """What a job waits for when it lets the other jobs continue."""

    STEP = "the next step of its batch"
    TURN = "its next turn"
    LOAD = "a file that another thread loads"


JobSteps = Generator[Event | Pause, None, R]
"""A job in progress: yields events and pauses, returns a result."""


class _SharedRows(NamedTuple):
    """The rows of a job in a batch, with its unsteered rows computed once."""

    plans: list[SteerPlan | None]
    """one for each row in the batch"""
    places: list[int]
    """for each row of the job, its row in `plans`"""


def _shared_rows(plans: Sequence[SteerPlan | None]) -> _SharedRows:
    rows: list[SteerPlan | None] = []
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
    return _SharedRows(rows, places)


class JobRows:
    """The rows of one job in a batch. `plans` has one entry for each row in the batch."""

    def __init__(
        self, group: "_Group", logits: Tensor, rows: _SharedRows, cancelled: Callable[[], bool]
    ) -> None:
        self.plans, self._places = rows
        self.cancelled = cancelled
        self.tokens: Tensor | None = None
        """[rows in the batch] the next tokens; None if they are not drawn yet"""
        self._first = [self._places.index(row) for row in range(len(self.plans))]
        self._group = group
        self._logits = logits
        self._error: BaseException | None = None

    @property
    def logits(self) -> Tensor:
        """[rows of the job, vocab] after the last step. Raises the error of that step."""
        if self._error is not None:
            raise self._error
        return self._logits[self._places]

    def put(self, tokens: Tensor) -> None:
        """Set the next token of each row of the job, for the next step."""
        self.tokens = tokens[self._first]

    def take(self, logits: Tensor) -> None:
        """Set the logits of the last step, [rows in the batch, vocab]."""
        self._logits, self.tokens = logits, None

    def fail(self, error: BaseException) -> None:
        """Set the error of the last step."""
        self._error = error

    def leave(self) -> None:
        """Remove the rows from the batch. May be called twice."""
        self._group.drop(self)


class _Group:
    """One batch and the jobs in it, in the order of its rows."""

    def __init__(self, model: LanguageModel) -> None:
        self.batch = PaddedBatch(model)
        self.jobs: list[JobRows] = []

    def add(self, prompt: Sequence[int], rows: _SharedRows, cancelled: Callable[[], bool]) -> JobRows:
        tokens = torch.tensor([prompt] * len(rows.plans), device=self.batch.model.device)
        patches = patches_of(rows.plans, tokens, [0] * len(rows.plans), cancelled=cancelled)
        job = JobRows(self, self.batch.join(tokens, patches), rows, cancelled)
        self.jobs.append(job)
        return job

    def drop(self, job: JobRows) -> None:
        if job not in self.jobs:
            return
        place = self.jobs.index(job)
        start = sum(len(other.plans) for other in self.jobs[:place])
        self.jobs.pop(place)
        self.batch.leave(range(start, start + len(job.plans)))

    def step(self) -> None:
        """Generate one token in every row. After an error all rows leave, because the cache may hold half a
        pass; every job gets the error.
        """
        tokens = [job.tokens for job in self.jobs if job.tokens is not None]
        if len(tokens) < len(self.jobs):
            raise RuntimeError("a job waits for a step but has not set its next tokens")
        plans = [plan for job in self.jobs for plan in job.plans]
        cancelled = [job.cancelled for job in self.jobs]
        try:
            following = torch.cat(tokens)
            patches = patches_of(
                plans,
                following[:, None],
                self.batch.lengths,
                cancelled=lambda: all(gone() for gone in cancelled),
            )
            logits = self.batch.step(following, patches)
        except Exception as error:
            for job in self.jobs:
                job.fail(error)
            self.jobs, self.batch = [], PaddedBatch(self.batch.model)
            return
        for job, own in zip(self.jobs, logits.split([len(job.plans) for job in self.jobs]), strict=True):
            job.take(own)


class Batches:
    """All batches in progress: one for each model, or several if rows of its architecture cannot be
    padded.
    """

    def __init__(self) -> None:
        self._groups: list[_Group] = []

    def join(
        self,
        model: LanguageModel,
        prompt: Sequence[int],
        plans: Sequence[SteerPlan | None],
        *,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> JobRows:
        """One row for each plan (None: unsteered), all of which continue BOS and `prompt`. Raises
        Cancelled.
        """
        tokens, rows = [model.bos, *prompt], _shared_rows(plans)
        for group in self._groups:
            if group.batch.model is model and group.batch.joinable:
                return group.add(tokens, rows, cancelled)
        group = _Group(model)
        job = group.add(tokens, rows, cancelled)
        self._groups.append(group)
        return job

    def step(self) -> int:
        """One step of every batch. Returns the number of rows that got a token."""
        self._groups = [group for group in self._groups if group.jobs]
        rows = sum(len(job.plans) for group in self._groups for job in group.jobs)
        for group in self._groups:
            group.step()
        return rows
