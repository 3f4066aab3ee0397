"""One dictionary of a plan, from its start to its folder: begun or resumed, trained filling after filling,
snapshotted, written.
"""

import time
from typing import Any

import torch
from rich.progress import Progress, TaskID

from lexiscope.checkpoint import new_checkpoint, save_weights
from lexiscope.dictionary import Dictionary
from lexiscope.language_model import LanguageModel, hook_name
from trainer.activations.buffer import Filling
from trainer.activations.harvest import Harvest, points
from trainer.activations.passages import LayerActivations
from trainer.anchor_survey import choose_anchors
from trainer.architectures import Config, Start, build
from trainer.distributed import Ranks
from trainer.errors import TrainingDiverged
from trainer.logs import Log
from trainer.plan import Plan, destination, identity, provenance, set_of
from trainer.snapshot import TRAINED, UnfinishedRun
from trainer.step import LogLine, Training


class DictionaryRun:
    """Call `over` with each filling that it `needs` until it is `done`; its dictionary is then in
    `unfinished.trained`.
    """

    def __init__(self, model: LanguageModel, plan: Plan, config: Config, layer: int, ranks: Ranks) -> None:
        self.model, self.plan, self.config, self.layer, self.ranks = model, plan, config, layer, ranks
        self.name = f"layer {layer} {set_of(plan, config)}"
        self.reads, self.writes = points(layer, transcoder=plan.transcoder)
        self.path = destination(plan, model, config, layer)
        self.width = plan.width or model.vocab_size
        self.unfinished = UnfinishedRun(self.path, identity(model, plan, config, layer))
        self.done = False
        self._training: Training | None = None
        self._log: Log | None = None
        self._begins = 0
        """the step before the current filling's first"""
        self._distinct = 0
        self._saved = 0.0
        """when the last snapshot was taken"""
        self._saved_step = 0

    def needs(self, filling: Filling) -> bool:
        """It has steps to take on this filling, or starts from it."""
        return (
            self._training is None
            or filling.last
            or self._training.step < self._begins + self._steps_on(filling)
        )

    def over(self, harvest: Harvest | None, filling: Filling, progress: Progress) -> None:
        """Train on a filling; or skip one that is not needed, which then has no harvest."""
        self._distinct += filling.tokens if filling.epoch == 0 else 0
        if harvest is not None:
            training = self._training or self._begin(harvest, filling, progress)
            self._training = training
            activations = harvest.at(self.layer, transcoder=self.plan.transcoder)
            try:
                training.over(
                    activations,
                    nth=filling.nth,
                    epoch=filling.epoch,
                    begins=self._begins,
                    last=filling.last,
                )
                if training.done:
                    self._finish(training, activations)
            except TrainingDiverged as error:
                raise self._diverged(error) from error
        self._begins += self._steps_on(filling)

    def _steps_on(self, filling: Filling) -> int:
        return filling.steps(self.config.batch, self.config.batch_of)

    def _steps(self, first: Filling) -> int:
        """All steps, for `seen` tokens; 0 where the recipe counts epochs. Passages are taken to be as long as
        those of the first filling.
        """
        if self.config.epochs:
            return 0
        if self.config.batch_of == "tokens":
            return max(1, self.plan.seen // self.config.batch)
        return max(1, round(self.plan.seen * self._steps_on(first) / first.tokens))

    def _begin(self, harvest: Harvest, filling: Filling, progress: Progress) -> Training:
        model, plan = self.model, self.plan
        activations = harvest.at(self.layer, transcoder=plan.transcoder)
        chosen = choose_anchors(self.config, model, harvest, self.layer, width=self.width, seed=plan.seed)
        positions = None
        if self.config.patience:
            passages = (~activations.validation()).nonzero().squeeze(1)
            positions = activations.positions(passages)
            self._distinct = len(positions)
        start = Start(
            activations.x,
            activations.tokens,
            embedding=model.embedding,
            d_sae=self.width,
            seed=plan.seed,
            device=model.device,
            centre=self.config.centre,
            lookup=self.config.lookup,
            positions=positions,
            sources=chosen.sources,
            model=model,
            writes=self.writes,
            target=activations.target,
        )
        with torch.no_grad():
            architecture = build(chosen.config, start)
        steps = self._steps(filling)
        training = Training(architecture, start.random, steps=steps, ranks=self.ranks)
        state = self.unfinished.load() if plan.resume else None
        if state:
            training.load_state(state)
        if self.ranks.writes:
            name = f"{model.id}/{self.path.name}"
            with self.unfinished.errors():
                self._log = Log(
                    self.unfinished.log,
                    after=training.step,
                    logger=plan.log,
                    name=name,
                    config=self.unfinished.plan,
                )
            self._saved, self._saved_step = time.monotonic(), training.step
        task = progress.add_task(
            self.name, total=steps or None, completed=training.step, rate="", loss="", live=""
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
        progress.update(task, completed=line.step, total=training.steps)
        progress.tasks[progress.task_ids.index(task)].fields.update(shown)
        tenth = line.step * 10 // training.steps > (line.step - training.every) * 10 // training.steps
        if not progress.console.is_terminal and (tenth or line.validation_loss is not None):
            validated = "" if line.validation_loss is None else f"validation {line.validation_loss:.4f} "
            progress.console.print(
                f"{self.name} step {line.step}/{training.steps}",
                *shown.values(),
                f"{validated}{line.seconds:.0f} s",
            )
        if self._log:
            with self.unfinished.errors():
                self._log.write(line)
            if time.monotonic() - self._saved >= self.plan.snapshot_every:
                self.unfinished.save(training.state())
                self._saved, self._saved_step = time.monotonic(), line.step

    def _diverged(self, error: TrainingDiverged) -> TrainingDiverged:
        """The error with the run's name and what is kept of it."""
        kept = "There was no snapshot yet, and nothing is kept."
        if self.unfinished.has_snapshot:
            kept = (
                f"The snapshot of step {self._saved_step:,} is kept in {self.unfinished.folder}; remove that "
                "folder, or give another --set-name, to train with other settings."
            )
        return TrainingDiverged(error.step, error.losses, error.learning_rate, name=self.name, kept=kept)

    def _finish(self, training: Training, activations: LayerActivations) -> None:
        dictionary = training.dictionary()
        training.check_result(dictionary, activations)
        if self._log:
            self._log.close()
            self._write(training, dictionary)
        self.ranks.wait_together()
        self.done, self._training = True, None

    def _write(self, training: Training, dictionary: Dictionary) -> None:
        architecture, plan = training.architecture, self.plan
        details: dict[str, Any] = {
            **provenance(
                plan, self.unfinished.plan, model_id=self.model.id, set_name=set_of(plan, self.config)
            ),
            "anchors": architecture.anchor_kind,
            "scale": architecture.centring.scale,
            "mean_norm": architecture.centring.mean_norm,
            **({"target_scale": architecture.target_centring.scale} if plan.transcoder else {}),
            "tokens_distinct": self._distinct,
            "tokens_seen": training.tokens,
            "seconds": round(training.seconds, 1),
            "cpu_seconds": round(training.cpu_seconds, 1),
        }
        with new_checkpoint(self.unfinished.folder / TRAINED) as folder:
            save_weights(
                folder,
                dictionary,
                fit=training.fit(),
                model=self.model.path,
                hook=hook_name(self.reads),
                context=plan.length,
                details=details,
                hook_out=hook_name(self.writes) if plan.transcoder else "",
            )
