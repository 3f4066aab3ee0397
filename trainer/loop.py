"""The training loop of one dictionary: batches, learning rate, restarts, one log line every few steps.

The batch at a step follows from the seed, the step and the filling alone, so that a run that is resumed sees
what it would have seen.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lexiscope.errors import TextError
from trainer.distributed import ALONE, Ranks
from trainer.fitting import Fit, Fitted
from trainer.start import inliers


class LogLine(NamedTuple):
    """One line of train.jsonl."""

    step: int
    tokens: int
    loss: float
    """mean squared error a dimension in scaled space: 1 − FVE, roughly"""
    live: float
    """share of rows that fired since the last line's window began"""
    tokens_per_second: float
    seconds: float


class Trained(NamedTuple):
    fitted: Fitted
    log: list[LogLine]


class Training:
    """One dictionary on its way to `steps` steps. `over` takes it through a filling; `state` is what a
    resumed run needs.
    """

    def __init__(
        self,
        fit: Fit,
        *,
        steps: int,
        ranks: Ranks = ALONE,
        every: int = 10,
        report: Callable[[LogLine], None] = lambda line: None,
    ) -> None:
        """`report` is called every `every` steps, where `state` may be taken; with several ranks, each fits
        its part of a batch.
        """
        self.fit, self.steps, self.ranks, self.every, self.report = fit, steps, ranks, every, report
        self.step, self.seconds = 0, 0.0
        self._since = time.monotonic()
        restarts = fit.recipe.restarts
        self._restart_at = {round(steps * 0.6 * (i + 1) / restarts) for i in range(restarts)}
        self._losses: list[Tensor] = []
        ranks.join(fit)

    def over(self, x: Tensor, tokens: Tensor, *, nth: int, begins: int, last: bool) -> None:
        """Train on activations x [n, d] on tokens [n], the `nth` filling, whose first step is `begins` + 1.

        One epoch, from wherever in it this training stands; epoch after epoch to the end on the last filling.
        Outliers are left out.
        """
        fit, batch = self.fit, self.fit.recipe.batch
        per_epoch = len(x) // batch
        end = self.steps if last else min(self.steps, begins + per_epoch)
        if last and not per_epoch:
            raise TextError(
                f"The text gives {len(x):,} training tokens, fewer than a batch of {batch:,}. Give more text."
            )
        kept = fit.centring.kept if x is fit.x else inliers(x, fit.centring.largest)
        seed, epoch, order = fit.random.initial_seed(), -1, kept
        self._since = time.monotonic()
        while self.step < end:
            at, start = (self.step - begins) // per_epoch, (self.step - begins) % per_epoch * batch
            if at != epoch:
                epoch, order = at, kept[_permutation(len(kept), seed, nth + at)]
            rows = order[torch.arange(start, start + batch) % len(order)]
            self._train(x, tokens, rows)
            if self.step % self.every == 0 or self.step == self.steps:
                self.report(self._line())

    def _train(self, x: Tensor, tokens: Tensor, rows: Tensor) -> None:
        fit, steps = self.fit, self.steps
        self.step += 1
        rate = fit.recipe.learning_rate * min(
            1.0, self.step / (steps / 20), (steps - self.step + 1) / (steps / 3)
        )
        mine = self.ranks.part(rows)
        remembered = tokens[mine] if steps - self.step < fit.recent_steps else None
        loss, squares = fit.step(fit.normalise(x[mine]), rate, remembered)
        self._losses.append(loss)
        if self.step in self._restart_at:
            fit.restart(fit.normalise(x[rows]), tokens[rows], self.ranks.gathered(squares))

    def _line(self) -> LogLine:
        fit, tokens, now = self.fit, len(self._losses) * self.fit.recipe.batch, time.monotonic()
        took, self._since = now - self._since, now
        self.seconds += took
        line = LogLine(
            step=self.step,
            tokens=self.step * fit.recipe.batch,
            loss=round(float(self.ranks.mean(torch.stack(self._losses).mean())), 5),
            live=round(fit.fired.float().mean().item(), 4),
            tokens_per_second=round(tokens / took, 1),
            seconds=round(self.seconds, 1),
        )
        self._losses = []
        return line

    def state(self) -> dict[str, Any]:
        """Tensors and numbers; taken from within `report`."""
        return {"fit": self.fit.state(), "step": self.step, "seconds": self.seconds}

    def load_state(self, state: dict[str, Any]) -> None:
        self.fit.load_state(state["fit"])
        self.step, self.seconds = state["step"], state["seconds"]


def _permutation(n: int, *seed: int) -> Tensor:
    """[n] a permutation that the seeds fix."""
    mixed = int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0] >> 1)
    return torch.randperm(n, generator=torch.Generator().manual_seed(mixed))


def run(
    fit: Fit, *, steps: int, report: Callable[[LogLine], None] = lambda line: None, every: int = 10
) -> Trained:
    """Train for `steps` steps over shuffled epochs of the sample the fit started from, reporting every
    `every` steps.
    """
    log: list[LogLine] = []

    def keep(line: LogLine) -> None:
        log.append(line)
        report(line)

    training = Training(fit, steps=steps, every=every, report=keep)
    training.over(fit.x, fit.tokens, nth=0, begins=0, last=True)
    return Trained(fit.fitted(), log)
