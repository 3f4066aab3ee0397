"""The training of one dictionary: the step, the learning rate, restarts, early stopping, one log line every
few steps.

It drives any `trainer.architectures.base.Architecture`; what is trained and on which loss is the
architecture's.
"""

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lexiscope.checkpoint import AnchorFit
from lexiscope.dictionary import Dictionary
from lexiscope.errors import TextError
from lexiscope.evidence import lift_names
from lexiscope.sparse_code import SparseCode
from trainer import objectives, sparse
from trainer.activations.passages import (
    BatchOrder,
    LayerActivations,
    PassageOrder,
    PositionOrder,
    Rows,
    TrainingBatch,
)
from trainer.architectures import Architecture, Step
from trainer.distributed import ALONE, Ranks
from trainer.errors import TrainingDiverged
from trainer.initialise import inliers

WORST = 1e3
"""Squared error of a step, as a multiple of the target's squared norm, above which training has diverged; the
start has about 1.
"""
CHECKED = 256
"""Positions that the finished dictionary reconstructs before it is kept."""
REMEMBERED = 65536
"""Tokens, the last trained on, whose firings the names of highest lift are computed from."""


class LogLine(NamedTuple):
    """One line of train.jsonl."""

    step: int
    tokens: int
    loss: float
    """mean squared error a dimension of the reconstruction in scaled space, since the last line: roughly 1 −
    FVE where activations are centred
    """
    live: float
    """share of features that fired since the last restart, or with validation since the epoch began"""
    tokens_per_second: float
    seconds: float
    terms: dict[str, float]
    """the other weighted parts of the loss, where they entered"""
    epoch: int
    validation_loss: float | None
    """at the end of an epoch, where the recipe stops early"""


class Trained(NamedTuple):
    dictionary: Dictionary
    """in raw space"""
    fit: AnchorFit
    log: list[LogLine]


class Best(NamedTuple):
    """The epoch of lowest validation loss."""

    loss: float
    parameters: dict[str, Tensor]
    buffers: dict[str, Tensor]


class Training:
    """One dictionary on its way to `steps` steps. `over` takes it through a filling; `state` is what a
    resumed run needs.
    """

    def __init__(
        self,
        architecture: Architecture,
        random: torch.Generator,
        *,
        steps: int = 0,
        ranks: Ranks = ALONE,
        every: int = 10,
        report: Callable[[LogLine], None] = lambda line: None,
    ) -> None:
        """`report` is called every `every` steps, where `state` may be taken; with several ranks, each trains
        on its part of a batch. Where the config counts epochs, `steps` follows from the first filling.
        """
        self.architecture, self.config, self.random = architecture, architecture.config, random
        self.steps, self.ranks, self.every, self.report = steps, ranks, every, report
        self.step, self.tokens, self.seconds, self.cpu_seconds = 0, 0, 0.0, 0.0
        self.fired = torch.zeros(architecture.d_sae, dtype=torch.bool, device=architecture.device)
        """[d_sae] since the last restart"""
        self.fired_in_epoch = self.fired.clone()
        """[d_sae] since the epoch began"""
        architecture.ranks = ranks
        ranks.share_start(list(architecture.parameters.values()) + list(architecture.buffers.values()))
        self.optimiser = torch.optim.Adam(
            list(architecture.parameters.values()),
            lr=self.config.learning_rate,
            betas=(0.9, 0.999),
            fused=True,
        )
        self._recent: deque[tuple[Tensor, Tensor]] = deque()
        self._best: Best | None = None
        self._waited = 0
        """epochs since the best"""
        self._since, self._cpu_since, self._tokens_before = time.monotonic(), time.process_time(), 0
        self._losses: list[dict[str, Tensor]] = []
        self._unchecked: deque[tuple[int, dict[str, Tensor], Tensor]] = deque()

    # --- through a filling ---

    def over(
        self,
        activations: LayerActivations,
        *,
        nth: int = 0,
        epoch: int = 0,
        begins: int = 0,
        last: bool = True,
    ) -> None:
        """Train on a filling, the `nth`, whose first step is `begins` + 1, after `epoch` passes over the
        text: one epoch of it, from wherever in it this training stands; epoch after epoch to the end on the
        last filling. Outliers are left out.

        Raises TextError where the last filling holds less than a batch, TrainingDiverged where a loss is not
        finite, or the error far above that of predicting zeros.
        """
        order = self._order(activations, nth)
        if last and not order.per_epoch:
            raise TextError(
                f"The text gives {len(activations.tokens):,} training tokens, fewer than a batch of "
                f"{self.config.batch:,}. Give more text."
            )
        if self.config.epochs and not self.steps:
            self.steps = self.config.epochs * order.per_epoch
        end = self.steps if last else min(self.steps, begins + order.per_epoch)
        self._since, self._cpu_since, self._tokens_before = time.monotonic(), time.process_time(), self.tokens
        while self.step < end:
            nth_epoch, at = divmod(self.step - begins, order.per_epoch)
            if at == 0:
                self.fired_in_epoch.zero_()
            self.train_on(activations, order.rows(nth_epoch, at))
            validated = None
            if self._validates and at + 1 == order.per_epoch:
                validated = self._validate(activations)
                if self._waited >= self.config.patience:
                    self.steps = end = self.step
            if self.step % self.every == 0 or self.step == self.steps or validated is not None:
                self._check_losses(late=0)
                self.report(self._line(epoch + nth_epoch + 1, validated))

    def _order(self, activations: LayerActivations, nth: int) -> BatchOrder:
        config, seed = self.config, (self.random.initial_seed(), nth)
        if config.batch_of == "tokens":
            kept = self._inliers(activations)
            return PositionOrder(kept, len(activations.x), config.batch, seed)
        passages = torch.arange(len(activations.starts))
        if self._validates:
            passages = passages[~activations.validation()]
        return PassageOrder(activations, passages, config.batch, seed)

    def _inliers(self, activations: LayerActivations) -> Tensor:
        """[m] positions that are no outliers, in x or in a transcoder's target."""
        kept = inliers(activations.x, self.architecture.centring.largest)
        if activations.target is None:
            return kept
        return kept[inliers(activations.target[kept], self.architecture.target_centring.largest)]

    @property
    def _validates(self) -> bool:
        return bool(self.config.patience)

    @torch.no_grad()
    def train_on(self, activations: LayerActivations, rows: Rows) -> None:
        """One step, with its learning rate, and a restart where one is due."""
        self.step += 1
        mine = rows._replace(positions=self.ranks.part(rows.positions))
        batch = self._batch(activations, mine)
        squares = self._update(batch)
        self.tokens += len(rows.positions)
        if self._restarts_now():
            whole = self._batch(activations, rows._replace(passages=None))
            self._restart(whole, self.ranks.gathered(squares))

    def _batch(self, activations: LayerActivations, rows: Rows) -> TrainingBatch:
        x, target = self._normalised(activations, rows.positions)
        passages = None if rows.passages is None else activations.whole(rows.passages)
        return TrainingBatch(x, target, activations.tokens[rows.positions], passages)

    def _normalised(self, activations: LayerActivations, positions: Tensor) -> tuple[Tensor, Tensor]:
        """x [n, d_in] and the target [n, d_out] of some positions, in scaled space."""
        x = self.architecture.normalise(activations.x[positions], activations.tokens[positions])
        if activations.target is None:
            return x, x
        return x, self.architecture.target_centring.normalise(activations.target[positions])

    def _update(self, batch: TrainingBatch) -> Tensor:
        """Gradients, Adam, constraints; returns the squared error of each token [n]."""
        architecture = self.architecture
        made = architecture.gradients(batch, Step(self.step, self.steps))
        self._losses.append(made.losses | {"mse": made.squares.sum() / batch.target.numel()})
        error = made.squares.mean() / batch.target.square().sum(-1).mean()
        self._unchecked.append((self.step, made.losses, error))
        self._check_losses(late=1 if architecture.device.type == "cuda" else 0)
        self.ranks.average([architecture.gradient(name) for name in architecture.parameters])
        fired = sparse.fired(made.code, architecture.d_sae)
        self.ranks.unite(fired)
        self.fired |= fired
        self.fired_in_epoch |= fired
        architecture.silent += 1
        architecture.silent.masked_fill_(fired, 0)
        architecture.constrain_gradients()
        self.optimiser.param_groups[0]["lr"] = self._learning_rate()
        self.optimiser.step()
        architecture.constrain_weights()
        self._remember(made.code, batch.tokens)
        return made.squares

    def _learning_rate(self) -> float:
        rate: float = self.config.learning_rate
        if self.config.schedule == "constant":
            return rate
        return rate * min(1.0, self.step / (self.steps / 20), (self.steps - self.step + 1) / (self.steps / 3))

    def _check_losses(self, *, late: int) -> None:
        """Raise TrainingDiverged at the first step whose loss is not finite, or whose error is far above what
        predicting zeros gives. On a GPU the host must not wait for the step it has just issued: it checks the
        one before.
        """
        while len(self._unchecked) > late:
            step, losses, error = self._unchecked.popleft()
            if not all(math.isfinite(loss) for loss in losses.values()) or not error <= WORST:
                values = {name: float(loss) for name, loss in losses.items()}
                raise TrainingDiverged(step, values, self.config.learning_rate)

    def check_result(self, dictionary: Dictionary, activations: LayerActivations) -> None:
        """Raise TrainingDiverged where the last step broke the weights, which no loss has shown."""
        whole = all(bool(tensor.isfinite().all()) for tensor in dictionary.tensors().values())
        rows = self._inliers(activations)[:CHECKED]
        x = activations.x[rows].float()
        target = x if activations.target is None else activations.target[rows].float()
        found = dictionary.map(torch.Tensor.cpu).reconstruct(x, activations.tokens[rows])
        squares = (found - target).square().sum()
        error = float(squares / target.square().sum())
        if not (whole and error <= WORST):
            values = {"squared error, as a share of the activations' squares": error}
            raise TrainingDiverged(self.step, values, self.config.learning_rate)

    def _remember(self, code: SparseCode, tokens: Tensor) -> None:
        """Keep the firings of the last tokens; where the end is known, only those near it."""
        if not self.config.patience and (self.steps - self.step) * self.config.batch > REMEMBERED:
            return
        self._recent.append((torch.where(code.values != 0, code.indices, -1).int().cpu(), tokens.int()))
        while sum(len(tokens) for _, tokens in self._recent) - len(self._recent[0][1]) >= REMEMBERED:
            self._recent.popleft()

    # --- restarts ---

    def _restarts_now(self) -> bool:
        restarts = self.config.restarts
        return self.step in {round(self.steps * 0.6 * (i + 1) / restarts) for i in range(restarts)}

    def _restart(self, batch: TrainingBatch, squares: Tensor) -> None:
        """Restart every feature that has not fired since the last restart at a token of the batch, drawn by
        its squared error [n].
        """
        architecture = self.architecture
        dead = (~self.fired).nonzero().squeeze(1)
        self.fired.zero_()
        if len(dead) == 0:
            return
        picked = squares.cpu().multinomial(
            len(dead), replacement=len(dead) > len(squares), generator=self.random
        )
        here = picked.to(architecture.device)
        architecture.restart(dead, TrainingBatch(batch.x[here], batch.target[here], batch.tokens[picked]))
        architecture.silent[dead] = 0
        for name in architecture.feature_parameters:
            state = self.optimiser.state[architecture.parameters[name]]
            for moment in ("exp_avg", "exp_avg_sq"):
                state[moment][dead] = 0

    # --- early stopping ---

    @torch.no_grad()
    def _validate(self, activations: LayerActivations) -> float:
        """Mean squared error a dimension over the validation passages; keeps the best epoch's weights."""
        loss = self.validation_loss(activations)
        self._waited += 1
        if self._best is None or loss < self._best.loss:
            parts = (self.architecture.parameters, self.architecture.buffers)
            self._best = Best(
                loss, *({name: t.detach().clone() for name, t in part.items()} for part in parts)
            )
            self._waited = 0
        return loss

    @torch.no_grad()
    def validation_loss(self, activations: LayerActivations) -> float:
        """Over all tokens of the validation passages; other terms of the loss have no part in it."""
        passages = activations.validation().nonzero().squeeze(1)
        total, n = 0.0, 0
        for part in passages.split(self.config.batch):
            rows = activations.positions(part)
            x, target = self._normalised(activations, rows)
            total += objectives.mse(self.architecture.forward(x).output, target).item() * len(rows)
            n += len(rows)
        return total / n

    # --- logs and snapshots ---

    def _line(self, epoch: int, validated: float | None) -> LogLine:
        now, cpu, tokens = time.monotonic(), time.process_time(), self.tokens - self._tokens_before
        took, self._since, self._tokens_before = now - self._since, now, self.tokens
        self.seconds += took
        self.cpu_seconds += cpu - self._cpu_since
        self._cpu_since = cpu
        means = {}
        for name in dict.fromkeys(name for losses in self._losses for name in losses):
            values = torch.stack([losses[name] for losses in self._losses if name in losses])
            means[name] = float(self.ranks.mean(values.mean()))
        live = self.fired_in_epoch if self._validates else self.fired
        line = LogLine(
            step=self.step,
            tokens=self.tokens,
            loss=round(means.pop("mse", math.nan), 5),
            live=round(live.float().mean().item(), 4),
            tokens_per_second=round(tokens / max(took, 1e-9), 1),
            seconds=round(self.seconds, 1),
            terms={name: float(f"{value:.5g}") for name, value in means.items()},
            epoch=epoch,
            validation_loss=None if validated is None else round(validated, 6),
        )
        self._losses = []
        return line

    def state(self) -> dict[str, Any]:
        """Tensors and numbers; taken from within `report`. The rest follows from the config and the sample,
        so a resumed run makes the same `Architecture` first.
        """
        return {
            "parameters": {name: t.detach() for name, t in self.architecture.parameters.items()},
            "buffers": self.architecture.buffers,
            "optimiser": self.optimiser.state_dict(),
            "fired": self.fired,
            "fired_in_epoch": self.fired_in_epoch,
            "silent": self.architecture.silent,
            "recent": list(self._recent),
            "random": self.random.get_state(),
            "best": None if self._best is None else tuple(self._best),
            "waited": self._waited,
            "steps": self.steps,
            "step": self.step,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
        }

    @torch.no_grad()
    def load_state(self, state: dict[str, Any]) -> None:
        self._load(state["parameters"], state["buffers"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.fired.copy_(state["fired"])
        self.fired_in_epoch.copy_(state.get("fired_in_epoch", state["fired"]))
        self.architecture.silent.copy_(state["silent"])
        self._recent.extend(state["recent"])
        self.random.set_state(state["random"])
        self._best = None if state["best"] is None else Best(*state["best"])
        self._waited, self.steps, self.step = state["waited"], state["steps"], state["step"]
        self.tokens, self.seconds = state["tokens"], state["seconds"]
        self.cpu_seconds = state.get("cpu_seconds", 0.0)

    def _load(self, parameters: dict[str, Tensor], buffers: dict[str, Tensor]) -> None:
        for mine, saved in ((self.architecture.parameters, parameters), (self.architecture.buffers, buffers)):
            for name, tensor in mine.items():
                tensor.copy_(saved[name])

    # --- the result ---

    @property
    def done(self) -> bool:
        return self.step > 0 and self.step == self.steps

    @torch.no_grad()
    def dictionary(self) -> Dictionary:
        """In raw space; of the best epoch where there is validation."""
        if self._best is not None:
            self._load(self._best.parameters, self._best.buffers)
        reads, writes = self.architecture.centring, self.architecture.target_centring
        lookup = self.architecture.lookup
        stored = None if lookup is None else lookup.detach().cpu()
        folded = replace(self.architecture.dictionary(), lookup=stored).fold(
            reads.mean.cpu(), reads.scale, target_mean=writes.mean.cpu(), target_scale=writes.scale
        )
        return folded if folded.lookup is None else replace(folded, lookup=folded.lookup.bfloat16())

    def fit(self) -> AnchorFit:
        return self.architecture.anchor_fit(self.lift_names())

    def lift_names(self) -> Tensor:
        """[d_sae] the training token of highest lift of each feature, over the last tokens trained on; −1
        where it was silent.
        """
        d_sae = self.architecture.d_sae
        if not self._recent:
            return torch.full((d_sae,), -1)
        features, tokens = self.recent_firings()
        counts = torch.bincount(
            torch.cat([tokens for _, tokens in self._recent]), minlength=len(self.architecture.counts)
        )
        return lift_names(features, tokens, counts, d_sae)

    def recent_firings(self) -> tuple[Tensor, Tensor]:
        """(features [firings], the tokens they fired on [firings]) of the last tokens trained on."""
        features, tokens = [], []
        for indices, on in self._recent:
            fired = indices >= 0
            features.append(indices[fired])
            tokens.append(on[:, None].expand_as(indices)[fired])
        return torch.cat(features), torch.cat(tokens)


def train_on_sample(
    training: Training,
    activations: LayerActivations,
    *,
    report: Callable[[LogLine], None] = lambda line: None,
) -> Trained:
    """Take a training to its end on one sample: shuffled epochs of it, reporting every few steps."""
    log: list[LogLine] = []

    def keep(line: LogLine) -> None:
        log.append(line)
        report(line)

    training.report = keep
    training.over(activations)
    return Trained(training.dictionary(), training.fit(), log)
