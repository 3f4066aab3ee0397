"""The training loop of one dictionary: batches, learning rate, restarts, one log line every few steps."""

import time
from collections.abc import Callable
from typing import NamedTuple

import torch

from trainer.fitting import Fit, Fitted


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


def run(fit: Fit, *, steps: int, report: Callable[[LogLine], None] = lambda line: None, every: int = 10) -> Trained:
    """Train for `steps` steps over shuffled epochs of the harvest, reporting every `every` steps."""
    recipe, kept = fit.recipe, fit.centring.kept
    restart_at = {round(steps * 0.6 * (i + 1) / recipe.restarts) for i in range(recipe.restarts)}
    order, at = kept[:0], 0
    begun, since, losses = time.monotonic(), time.monotonic(), []
    log: list[LogLine] = []
    for step in range(1, steps + 1):
        if at + recipe.batch > len(order):
            order, at = kept[torch.randperm(len(kept), generator=fit.random)], 0
        rows = order[at : at + recipe.batch]
        at += recipe.batch
        y = fit.batch(rows)
        rate = recipe.learning_rate * min(1.0, step / (steps / 20), (steps - step + 1) / (steps / 3))
        loss, squares = fit.step(y, rate)
        losses.append(loss)
        if step in restart_at:
            fit.restart(y, fit.tokens[rows], squares)
        if step % every == 0 or step == steps:
            now = time.monotonic()
            line = LogLine(
                step=step,
                tokens=step * len(rows),
                loss=round(float(torch.stack(losses).mean()), 5),
                live=round(fit.fired.float().mean().item(), 4),
                tokens_per_second=round(len(losses) * len(rows) / (now - since), 1),
                seconds=round(now - begun, 1),
            )
            log.append(line)
            report(line)
            losses, since = [], now
    return Trained(fit.fitted(), log)
