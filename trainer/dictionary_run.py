"""One dictionary of a plan, from its start to its folder: begun or resumed, trained filling after filling,
snapshotted, written.
"""

import shutil
import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from rich.progress import Progress, TaskID
from torch import Tensor

from lexiscope.checkpoint import new_checkpoint, save_weights
from lexiscope.language_model import LanguageModel, Point, hook_name
from lexiscope.precision import precision
from trainer import several_layers
from trainer.activations.buffer import Filling
from trainer.activations.harvest import Harvest, points
from trainer.activations.passages import LayerActivations
from trainer.anchor_survey import choose_anchors
from trainer.architectures import Config, Start, build
from trainer.distributed import Ranks
from trainer.errors import TrainingDiverged
from trainer.initialise import Centring
from trainer.logs import Log
from trainer.plan import Plan, defaults_of, destination, identity, provenance, set_of, training_sources
from trainer.several_layers import ForLayer
from trainer.snapshot import TRAINED, UnfinishedRun
from trainer.step import LogLine, Training

EXPLAINED = 4096
"""Training positions on which the share of the later layers' variance is measured that a crosscoder explains.
"""


class DictionaryRun:
    """Call `over` with each filling that it `needs` until it is `done`; its dictionary is then in
    `unfinished.trained`.
    """

    def __init__(
        self,
        model: LanguageModel,
        plan: Plan,
        config: Config,
        layer: int,
        ranks: Ranks,
        *,
        group: Sequence[int] = (),
    ) -> None:
        """`group`: the layers of a dictionary for several, of which `layer` is one. The first one's run
        trains it, and writes for the others, its `followers`.
        """
        self.group, self.followers = tuple(group), list[DictionaryRun]()
        self.model, self.plan, self.config, self.layer, self.ranks = model, plan, config, layer, ranks
        self.name = f"layer {layer} {set_of(plan, config)}"
        self.reads, self.writes = points(layer, transcoder=plan.transcoder)
        self.path = destination(plan, model, config, layer)
        self.width = plan.width or model.vocab_size
        identified = identity(model, plan, config, layer) | ({"group": list(group)} if group else {})
        self.unfinished = UnfinishedRun(self.path, identified, defaults_of(config))
        self.done = False
        self._training: Training | None = None
        self._log: Log | None = None
        self._begins = 0
        """the step before the current filling's first"""
        self._distinct = 0
        self._centrings: dict[int, Centring] = {}
        """of each layer of its group, on the first filling"""
        self._saved = 0.0
        """when the last snapshot was taken"""
        self._saved_step = 0

    @property
    def follows(self) -> bool:
        """The run of another layer of its group trains it."""
        return bool(self.group) and self.layer != self.group[0]

    @property
    def points(self) -> set[Point]:
        """What it is trained on."""
        return {self.reads, self.writes, *self.group}

    def needs(self, filling: Filling) -> bool:
        """It has steps to take on this filling, or starts from it."""
        return not self.follows and (
            self._training is None
            or filling.last
            or self._training.step < self._begins + self._steps_on(filling)
        )

    def over(self, harvest: Harvest | None, filling: Filling, progress: Progress) -> None:
        """Train on a filling; or skip one that is not needed, which then has no harvest."""
        self._distinct += filling.tokens if filling.epoch == 0 else 0
        if harvest is not None:
            activations = self._activations(harvest)
            training = self._training or self._begin(harvest, activations, filling, progress)
            self._training = training
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

    def _activations(self, harvest: Harvest) -> LayerActivations:
        if not self.group:
            found = harvest.at(self.layer, transcoder=self.plan.transcoder)
            if not self.config.patience:
                return found
            return found._replace(sources=training_sources(self.model, self.plan, len(found.numbers)))
        self._centrings = self._centrings or several_layers.centrings(harvest, self.group)
        join = several_layers.shared if self.config.layers == "shared" else several_layers.written
        return join(harvest, self._centrings)

    def _steps_on(self, filling: Filling) -> int:
        if self.config.layers == "shared":
            filling = filling._replace(tokens=filling.tokens * len(self.group))
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

    def _begin(
        self, harvest: Harvest, activations: LayerActivations, filling: Filling, progress: Progress
    ) -> Training:
        model, plan = self.model, self.plan
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
            self.unfinished.refuse_other_precision(state.get("precision"), precision(model.device))
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
                self.unfinished.save(training.state() | {"precision": precision(self.model.device)})
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
            if self.group:
                self._write_group(training, activations)
            else:
                centring = training.architecture.centring
                found = ForLayer(dictionary, training.fit(), centring.scale, centring.mean_norm)
                self._write(training, found)
        self.ranks.wait_together()
        self.done, self._training = True, None

    def _write_group(self, training: Training, activations: LayerActivations) -> None:
        """For the followers first, so that they are there where this one is."""
        lift, architecture = training.lift_names(), training.architecture
        if self.config.layers == "written":
            found, tensors = several_layers.written_results(architecture, lift, self._centrings)
            later = several_layers.parts(activations, self._centrings, EXPLAINED)
            x = activations.x[:EXPLAINED].float()
            share = several_layers.explained(found.dictionary, tensors, x, later)
            self._write(training, found, tensors=tensors, explained=share)
            return
        home = self._centrings[self.layer]
        for run in (*self.followers, self):
            own = several_layers.shared_result(architecture, lift, self._centrings[run.layer], home)
            if run is not self:
                with run.unfinished.errors():
                    shutil.copyfile(self.unfinished.log, run.unfinished.log)
            if run.unfinished.trained is None:  # else written before an interruption
                run._write(training, own)
            run.done = True

    def _write(
        self,
        training: Training,
        found: ForLayer,
        *,
        tensors: Mapping[str, Tensor] = MappingProxyType({}),
        explained: Mapping[int, float] = MappingProxyType({}),
    ) -> None:
        """The checkpoint of one layer; `tensors` are those of a crosscoder's other layers, `explained` what
        they explain there.
        """
        architecture, plan = training.architecture, self.plan
        details: dict[str, Any] = {
            **provenance(
                plan, self.unfinished.plan, model_id=self.model.id, set_name=set_of(plan, self.config)
            ),
            "anchors": architecture.anchor_kind,
            "scale": found.scale,
            "mean_norm": found.mean_norm,
            **({"target_scale": architecture.target_centring.scale} if plan.transcoder else {}),
            **({"layers": {self.config.layers: list(self.group)}} if self.group else {}),
            **({"explained": dict(explained)} if explained else {}),
            "tokens_distinct": min(self._distinct, training.tokens),
            "tokens_seen": training.tokens,
            "seconds": round(training.seconds, 1),
            "cpu_seconds": round(training.cpu_seconds, 1),
        }
        with new_checkpoint(self.unfinished.folder / TRAINED) as folder:
            save_weights(
                folder,
                found.dictionary,
                fit=found.fit,
                model=self.model.path,
                hook=hook_name(self.reads),
                context=plan.length,
                details=details,
                hook_out=hook_name(self.writes) if plan.transcoder else "",
            )
            if tensors:
                several_layers.save_written(folder, dict(tensors))
