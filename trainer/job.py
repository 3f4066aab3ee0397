"""One dictionary of a plan, from its start to its folder: begun or resumed, trained filling after filling,
kept safe, written.
"""

import time
from typing import Any

import torch
from rich.progress import Progress, TaskID

from lexiscope.checkpoint import new_checkpoint, save_weights
from lexiscope.language_model import LanguageModel, hook_name
from trainer.choosing import settled
from trainer.distributed import Ranks
from trainer.fitting import Fit
from trainer.harvest import Harvest
from trainer.logs import Log
from trainer.loop import LogLine, Training
from trainer.plan import Plan, destination, identity, provenance
from trainer.recipes import Recipe
from trainer.snapshot import TRAINED, Unfinished
from trainer.sources import Filling


class Job:
    """Call `over` with each filling that it `needs` until it is `done`; its dictionary then lies in
    `unfinished.trained`.
    """

    def __init__(self, model: LanguageModel, plan: Plan, recipe: Recipe, layer: int, ranks: Ranks) -> None:
        self.model, self.plan, self.recipe, self.layer, self.ranks = model, plan, recipe, layer, ranks
        self.name = f"layer {layer} {plan.set_name or recipe.name}"
        self.path = destination(plan, model, recipe, layer)
        self.steps = max(1, plan.seen // recipe.batch)
        self.width = plan.width or model.vocab_size
        self.unfinished = Unfinished(self.path, identity(model, plan, recipe, layer))
        self.done = False
        self._training: Training | None = None
        self._log: Log | None = None
        self._begins = 0
        """the step before the current filling's first"""
        self._distinct = 0
        self._saved = 0.0
        """when the last snapshot was taken"""

    def needs(self, filling: Filling) -> bool:
        """It has steps to take on this filling, or takes its start from it."""
        return (
            self._training is None
            or filling.last
            or self._training.step < self._begins + filling.tokens // self.recipe.batch
        )

    def over(self, found: Harvest | None, filling: Filling, progress: Progress) -> None:
        """Train on a filling, `found`; or pass by one that is not needed."""
        self._distinct += filling.tokens if filling.epoch == 0 else 0
        if found is not None:
            x = found.activations[self.layer]
            training = self._training or self._begin(found, progress)
            self._training = training
            training.over(x, found.tokens, nth=filling.nth, begins=self._begins, last=filling.last)
            if training.step == self.steps:
                self._finish(training)
            elif x is training.fit.x:  # the start is made: do not hold the first filling's files
                training.fit.x, training.fit.tokens = (
                    torch.empty(0, x.shape[1]),
                    torch.empty(0, dtype=torch.long),
                )
        self._begins += filling.tokens // self.recipe.batch

    def _begin(self, found: Harvest, progress: Progress) -> Training:
        model, width, seed = self.model, self.width, self.plan.seed
        recipe, around = settled(self.recipe, model, found, self.layer, width=width, seed=seed)
        x, tokens = found.activations[self.layer], found.tokens
        fit = Fit(
            recipe,
            x,
            tokens,
            embedding=model.embedding,
            d_sae=width,
            seed=seed,
            device=model.device,
            around=around,
        )
        training = Training(fit, steps=self.steps, ranks=self.ranks)
        state = self.unfinished.load() if self.plan.resume else None
        if state:
            training.load_state(state)
        if self.ranks.writes:
            name = f"{self.model.id}/{self.path.name}"
            self._log = Log(
                self.unfinished.log,
                after=training.step,
                logger=self.plan.log,
                name=name,
                config=self.unfinished.plan,
            )
            self._saved = time.monotonic()
        task = progress.add_task(
            self.name, total=self.steps, completed=training.step, rate="", loss="", live=""
        )
        training.report = lambda line: self._report(line, progress, task)
        return training

    def _report(self, line: LogLine, progress: Progress, task: TaskID) -> None:
        training = self._training
        assert training is not None  # it reports only while it is trained
        shown = {
            "rate": f"{line.tokens_per_second:,.0f} tok/s",
            "loss": f"loss {line.loss:.4f}",
            "live": f"live {line.live:.0%}",
        }
        progress.update(task, completed=line.step, **shown)
        if (
            not progress.console.is_terminal
            and line.step * 10 // self.steps > (line.step - training.every) * 10 // self.steps
        ):
            progress.console.print(
                f"{self.name} step {line.step}/{self.steps}", *shown.values(), f"{line.seconds:.0f} s"
            )
        if self._log:
            self._log.write(line)
            if time.monotonic() - self._saved >= self.plan.snapshot_every:
                self.unfinished.save(training.state())
                self._saved = time.monotonic()

    def _finish(self, training: Training) -> None:
        if self._log:
            self._log.close()
            self._write(training)
        self.ranks.wait_together()
        self.done, self._training = True, None

    def _write(self, training: Training) -> None:
        fitted, plan = training.fit.fitted(), self.plan
        details: dict[str, Any] = {
            **provenance(plan, self.unfinished.plan, model_id=self.model.id),
            "anchors": fitted.anchor_kind,
            "scale": fitted.centring.scale,
            "mean_norm": fitted.centring.mean_norm,
            "tokens_distinct": self._distinct,
            "tokens_seen": training.step * self.recipe.batch,
            "seconds": round(training.seconds, 1),
        }
        with new_checkpoint(self.unfinished.folder / TRAINED) as folder:
            save_weights(
                folder,
                fitted.dictionary,
                fit=fitted.fit,
                model=self.model.path,
                hook=hook_name(self.layer),
                context=plan.length,
                details=details,
            )
