"""The interface between the training engine and an architecture (TopKArchitecture, BatchTopK, Gated, …).

A new architecture is one file here, an entry in `trainer.architectures.ARCHITECTURES`, and a test. The file
holds a config and a class.

The config is a frozen dataclass that derives from `Config`. Every field has a type and a default, and
`--set FIELD=VALUE` sets it; `__post_init__` refuses values that make no sense, `check` those that do not fit
the widths. An architecture without a preset (`trainer.presets`) is a recipe under its own name.

The class derives from `Architecture`, or from one that is close to it: `TopKArchitecture` has the encoder,
the decoder, the dense path, the start and the restarts that most share. It implements

    initialise(start)           make `parameters`, which Adam trains, and `buffers`, which the architecture
                                changes itself (a running threshold): dicts of tensors, in every snapshot.
    forward(x)                  x [n, d_in] → Pass(code, output), differentiable. `trainer.sparse` encodes and
                                decodes so that gradients touch only rows that fired.
    losses(batch, made, step)   {name: scalar}; their sum is minimised. `mse` is the mean squared error of the
                                reconstruction, which is the log's `loss` whether it is minimised or not; the
                                others are logged under their names.
    dictionary()                the inference form in scaled space; the engine folds centring and scale in.

and may override

    gradients(batch, step)      fill `.grad` of every parameter: autograd through `losses` unless overridden.
                                An override computes the gradient of the same losses by hand, for speed; a
                                test compares each with autograd. A subclass that changes `forward` or
                                `losses` gets autograd back.
    constrain_gradients()       before Adam: remove what a constraint would undo.
    constrain_weights()         after Adam: unit norm, cones.
    restart(features, samples)  move dead features to samples, where the config has restarts.
    assigned                    [d_sae] the token that each row is held near, −1 for none.

The engine (`trainer.step`) does the rest: batches, the learning rate, Adam, counting for how long each
feature has been `silent`, restarts, early stopping, snapshots, logs, and the end of a run whose loss is not
finite. It runs without a graph; the default `gradients` makes one.

Activations are in scaled space: centred, with mean-square norm d (`centring`), unless the config has
`centre=False`; beside a token look-up they are what it leaves of them. A batch holds single positions, or
with `batch_of="passages"` whole passages, so that an objective may run the language model on the
reconstruction (`language_model`, patched at `writes`; `restore`). The target of a batch is x, but in a
transcoder, where it has another width and a centring of its own (`target_centring`). Where several ranks
train together, each sees its part of a batch, and gradients are averaged: take a statistic that is no sum
over positions (a threshold, a variance) through `ranks.mean`.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import isfinite
from typing import Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lexiscope.anchor_sets import ANCHOR_SETS, DESCRIPTIONS
from lexiscope.checkpoint import AnchorFit
from lexiscope.dictionary import Dictionary
from lexiscope.language_model import LanguageModel
from lexiscope.precision import fast_dtype
from lexiscope.sparse_code import SparseCode
from trainer.activations.harvest import Positions
from trainer.activations.passages import TrainingBatch
from trainer.distributed import ALONE, Ranks
from trainer.errors import RecipeError
from trainer.initialise import Lookup, Start
from trainer.objectives import MODEL_TERMS, TERMS, term_weights

BAKE_OFF = "auto"
"""As `anchors`: the set that names a briefly trained plain dictionary best (`trainer.anchor_survey`)."""
RESIDUAL_ANCHORS = ("following", "previous", "unembedding", "unigram", BAKE_OFF)
"""Anchors that need more than a sample (`trainer.initialise.AnchorSources`)."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """How one dictionary is trained: what every architecture has. A checkpoint records the whole config."""

    whole_batch: ClassVar[bool] = False
    """It chooses among all tokens of a batch, which ranks therefore cannot divide."""
    name: str
    """the recipe's"""
    anchors: str = "current"
    """The anchor set that names are computed from (`lexiscope.anchor_sets`), or auto."""
    batch: int = 2048
    """Tokens a step, or passages where batch_of is passages."""
    batch_of: Literal["tokens", "passages"] = "tokens"
    """passages where an objective needs whole ones."""
    learning_rate: float = 2e-3
    """Adam's."""
    schedule: Literal["warmup-decay", "constant"] = "warmup-decay"
    """Warm-up over the first twentieth of the steps and linear decay over the last third, or neither."""
    restarts: int = 0
    """How often, over the first 60 % of the steps, rows that no longer fire are restarted at badly
    reconstructed tokens.
    """
    terms: str = ""
    """Further terms of the loss (`trainer.objectives.TERMS`) with weights: NAME:WEIGHT,NAME:WEIGHT."""
    centre: bool = True
    """Centre and scale activations, and leave outliers out; otherwise train on them as they are."""
    lookup: Lookup = "none"
    """A token look-up beside the code (docs/method.md#token-look-up): the mean state on each token, fixed or
    trained on; permuted is a control, whose rows belong to other tokens.
    """
    layers: Literal["each", "shared", "written"] = "each"
    """A dictionary for each layer; one that all layers given share; or one that reads the first of them and
    writes all (`trainer.several_layers`).
    """
    positions: Positions = "after-first"
    """Train on all positions of a passage but the first, or on all."""
    length: int = 0
    """Tokens a passage, at most; 0: as --length has it."""
    epochs: int = 0
    """Passes over the text, at most; 0: --seen tokens."""
    patience: int = 0
    """Stop after so many epochs without a lower validation loss (every sixth passage validates), and keep the
    best epoch's weights; 0: no validation.
    """

    def __post_init__(self) -> None:
        """Raise RecipeError for values that cannot be used."""
        if self.anchors != BAKE_OFF and self.anchors not in ANCHOR_SETS:
            raise RecipeError(
                f"There is no anchor set '{self.anchors}'; there are {BAKE_OFF}, {', '.join(ANCHOR_SETS)}."
            )
        self._positive("learning_rate", "batch")
        self._not_negative("restarts", "length", "epochs", "patience")
        if self.epochs and self.batch_of != "passages":
            raise RecipeError("epochs needs batch_of=passages.")
        if self.patience and not self.epochs:
            raise RecipeError("patience needs epochs.")
        if self.lookup != "none" and not self.centre:
            raise RecipeError("A token look-up needs centre=true: its rows are deviations from the mean.")
        if self.batch_of != "passages" and term_weights(self.terms).keys() & MODEL_TERMS:
            raise RecipeError(
                f"terms={self.terms} run the model, which needs whole passages: batch_of=passages."
            )
        if self.layers != "each":
            self._check_several()

    def _check_several(self) -> None:
        """What one dictionary for several layers cannot have: it would belong to one of them."""
        for field, needed in (("lookup", "none"), ("batch_of", "tokens"), ("centre", True), ("patience", 0)):
            if getattr(self, field) != needed:
                raise RecipeError(f"layers={self.layers} needs {field}={str(needed).lower()}.")
        if self.anchors in RESIDUAL_ANCHORS:
            raise RecipeError(
                f"anchors={self.anchors} are made from one layer: with layers={self.layers} take another "
                "set, such as current."
            )

    def _needs_passages(self) -> None:
        if self.batch_of != "passages":
            raise RecipeError(f"{self.name} runs the model, which needs whole passages: batch_of=passages.")

    def _positive(self, *fields: str) -> None:
        for field in fields:
            value = getattr(self, field)
            if not (isfinite(value) and value > 0):
                raise RecipeError(f"{field} is {value}: it must be a finite number above 0.")

    def _not_negative(self, *fields: str) -> None:
        for field in fields:
            value = getattr(self, field)
            if not (isfinite(value) and value >= 0):
                raise RecipeError(f"{field} is {value}: it must be a finite number, not below 0.")

    def check(self, *, d_in: int, d_sae: int, embedding: tuple[int, ...]) -> None:
        """Raises RecipeError where the config does not fit the widths; `embedding` is W_E's shape [vocab,
        d_e].
        """

    @property
    def needs_later_layers(self) -> bool:
        """Whether a term of the loss is of the layers after its own."""
        return bool(term_weights(self.terms).get("downstream"))

    def check_transcoder(self) -> None:
        """Raises RecipeError where no transcoder can be trained so."""
        if self.layers != "each":
            raise RecipeError(f"{self.name} has layers={self.layers}, which a transcoder cannot have.")
        if self.lookup != "none":
            raise RecipeError(
                f"{self.name} has a token look-up, which a transcoder cannot have: set lookup=none."
            )
        if self.anchors in RESIDUAL_ANCHORS:
            raise RecipeError(
                f"{self.name} has anchors={self.anchors}, which are made from the residual stream: a "
                "transcoder takes another set, such as current."
            )
        if term_weights(self.terms).keys() & MODEL_TERMS:
            raise RecipeError(
                f"terms={self.terms} patch a residual stream into the model: a transcoder writes none."
            )
        self.check_other_target("a transcoder")

    def check_other_target(self, what: str) -> None:
        """Raises RecipeError where the input alone can be reconstructed, and so `what` cannot be trained."""


class Step(NamedTuple):
    """Where training stands."""

    number: int
    """from 1"""
    total: int

    @property
    def progress(self) -> float:
        """In (0, 1]."""
        return self.number / self.total


class Pass(NamedTuple):
    """What an architecture computes of x [n, d_in]."""

    code: SparseCode
    """[n, k] of the features that fired; k may vary from batch to batch, padded with value 0"""
    output: Tensor
    """[n, d_out] the reconstruction"""


class Gradients(NamedTuple):
    """What `gradients` reports, without a graph; the gradients themselves are in `.grad`."""

    losses: dict[str, Tensor]
    code: SparseCode
    squares: Tensor
    """[n] squared error of each token"""


class Architecture(ABC):
    """One dictionary in training; see the module's docstring."""

    name: ClassVar[str]
    summary: ClassVar[str]
    """what sets it apart, in a line"""
    config_type: ClassVar[type[Config]]
    feature_parameters: ClassVar[tuple[str, ...]] = ()
    """parameters with a row for each feature, whose moments a restart sets to 0"""
    precise: ClassVar[bool] = False
    """encode in float32 even where bf16 is faster"""
    by_batch: ClassVar[bool] = False
    """training selects over a whole batch, inference by thresholds: the two codes of a token may differ"""
    config: Any
    parameters: dict[str, Tensor]
    buffers: dict[str, Tensor]

    def __init__(self, config: Config, start: Start) -> None:
        """Raises RecipeError where the config does not fit the sample."""
        config.check(d_in=start.d_in, d_sae=start.d_sae, embedding=tuple(start.embedding.shape))
        self.config, self.d_sae, self.device = config, start.d_sae, start.device
        self.language_model: LanguageModel | None = start.model
        self.writes = start.writes
        self.transcoder = start.transcoder
        self.centring, self.target_centring = (
            found._replace(mean=found.mean.to(self.device))
            for found in (start.centring, start.target_centring)
        )
        self.anchors = start.anchors(config.anchors, self.dense_rank)
        """[vocab, d_out]"""
        self.lookup = None if start.lookup is None else start.lookup.to(self.device)
        """[vocab, d_in] in scaled space; None where there is none"""
        self.counts = start.counts
        self.ranks: Ranks = ALONE
        self.silent = torch.zeros(self.d_sae, dtype=torch.int32, device=self.device)
        """[d_sae] steps since each feature last fired"""
        self.matmul_dtype = torch.float32 if self.precise else fast_dtype(self.device)
        self.buffers = {}
        self.initialise(start)
        if self.config.lookup == "trained" and self.lookup is not None:
            self.parameters["lookup"] = self.lookup
        for parameter in self.parameters.values():
            parameter.requires_grad_()
            parameter.grad = torch.zeros_like(parameter)

    def __init_subclass__(cls, **options: Any) -> None:
        """A hand-written gradient holds only for the losses it was written for."""
        super().__init_subclass__(**options)
        changed = {"forward", "losses"} & vars(cls).keys()
        if changed and "gradients" not in vars(cls):
            cls.gradients = Architecture.gradients  # type: ignore[method-assign]

    @property
    def dense_rank(self) -> int:
        """Principal directions that anchors are taken outside of."""
        return 0

    @property
    def assigned(self) -> Tensor:
        """[d_sae] the token that each row is held near, −1 for none."""
        return torch.full((self.d_sae,), -1, device=self.device)

    @abstractmethod
    def initialise(self, start: Start) -> None:
        """Make `parameters`, and `buffers` where there are any, on `device`."""

    @abstractmethod
    def forward(self, x: Tensor) -> Pass:
        """The code and the reconstruction of x [n, d_in]."""

    @abstractmethod
    def losses(self, batch: TrainingBatch, made: Pass, step: Step) -> dict[str, Tensor]:
        """The weighted terms of the loss; `made` is `forward(batch.x)`."""

    @abstractmethod
    def dictionary(self) -> Dictionary:
        """The inference form in scaled space; without a graph."""

    def normalise(self, x: Tensor, tokens: Tensor) -> Tensor:
        """[n, d_in] what is trained on: raw x [n, d_in] in scaled space, without the look-up's part."""
        scaled = self.centring.normalise(x)
        return scaled if self.lookup is None else scaled - self.lookup[tokens.to(self.device)]

    def restore(self, y: Tensor, tokens: Tensor) -> Tensor:
        """The inverse of `normalise`."""
        part = 0.0 if self.lookup is None else self.lookup[tokens.to(self.device)]
        return self.centring.restore(y + part)

    def _through_lookup(self, batch: TrainingBatch) -> TrainingBatch:
        """The same batch, differentiable in a look-up that is trained."""
        lookup = self.parameters.get("lookup")
        if lookup is None:
            return batch
        rows = F.embedding(batch.tokens.to(self.device), lookup)
        rows = rows - rows.detach()
        return batch._replace(x=batch.x - rows, target=batch.target - rows)

    def gradients(self, batch: TrainingBatch, step: Step) -> Gradients:
        """Fill `.grad` of every parameter with the gradient of the summed losses."""
        with torch.enable_grad():
            batch = self._through_lookup(batch)
            made = self.forward(batch.x)
            losses = self.losses(batch, made, step)
            for name, weight in term_weights(self.config.terms).items():
                losses[name] = weight * TERMS[name](self, batch, made, step)
            total = torch.stack(list(losses.values())).sum()
            gradients = torch.autograd.grad(total, list(self.parameters.values()), allow_unused=True)
        for parameter, gradient in zip(self.parameters.values(), gradients, strict=True):
            parameter.grad = torch.zeros_like(parameter) if gradient is None else gradient.contiguous()
        squares = (made.output - batch.target).detach().square().sum(-1)
        code = SparseCode(made.code.values.detach(), made.code.indices)
        return Gradients({name: loss.detach() for name, loss in losses.items()}, code, squares)

    def gradient(self, name: str) -> Tensor:
        """`.grad` of a parameter."""
        gradient = self.parameters[name].grad
        assert gradient is not None  # every parameter gets one in __init__
        return gradient

    def constrain_gradients(self) -> None:  # noqa: B027
        """Change `.grad` in place, before Adam."""

    def constrain_weights(self) -> None:  # noqa: B027
        """Change `parameters` in place, after Adam."""

    def restart(self, features: Tensor, samples: TrainingBatch) -> None:
        """Move `features` [m] to m samples; configs of architectures without it have no restarts."""
        raise NotImplementedError

    def anchor_fit(self, lift: Tensor) -> AnchorFit:
        """What names are computed from, in the centred raw space; `lift` [d_sae] is each feature's token of
        highest lift.
        """
        scale = self.target_centring.scale
        mean = self.target_centring.mean.cpu() / scale
        return AnchorFit(self.anchors / scale, self.counts, mean, self.assigned.cpu(), lift)

    @property
    def anchor_kind(self) -> str:
        """What the anchors are, in words."""
        without = self.dense_rank and not self.transcoder
        outside = f", outside the top {self.dense_rank} principal directions" if without else ""
        return DESCRIPTIONS[self.config.anchors] + outside
