"""The VASAE paper's own algorithm (METHOD.md §1), so that its tables can be rerun: slow on purpose, autograd
throughout.

In: the residual stream of whole rows of text at raw scale, every position but padding, and the token
embedding W_E. Out: a dictionary in raw space, whose names are its rows' nearest raw W_E. Nothing here is
shared with the other recipes.
"""

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lexiscope.checkpoint import AnchorFit
from lexiscope.dictionary import Dictionary
from lexiscope.selection import TopK
from trainer.recipes import RecipeError

AnchorMode = Literal["nearest", "logsumexp", "softmax"]
NEAREST = 10
"""How many of the nearest anchors the modes logsumexp and softmax look at."""
CHUNK = 2048
"""Features whose cosines to all anchors are in memory at once."""


@dataclass(frozen=True)
class PaperRecipe:
    """How the paper trains one dictionary."""

    name: str
    anchor_weight: float = 0.0
    """λ: the loss is the mean squared error − λ · the mean anchor score over all features; 0 leaves the term
    out.
    """
    anchor_mode: AnchorMode = "nearest"
    """A feature's anchor score: its largest cosine to an anchor, or logsumexp or the softmax-weighted mean of
    its ten largest.
    """
    anchor_every: int = 1
    """The anchor term enters every so many steps; λ is not rescaled for the steps between."""
    frozen: bool = False
    """The decoder is W_E itself, never moves and has no bias (the variant `hard`)."""
    k: int = 32
    """Active features a token: ReLU, then TopK."""
    learning_rate: float = 1e-3
    """Adam's, without a schedule."""
    rows: int = 32
    """Rows of text a step."""
    length: int = 128
    """Tokens a row, at most."""
    epochs: int = 20
    """Passes over the training rows, at most."""
    patience: int = 3
    """Training stops after so many epochs without a lower validation loss; the best epoch's weights are kept.
    """

    def __post_init__(self) -> None:
        """Raise RecipeError for values that make no sense."""
        if self.anchor_mode not in get_args(AnchorMode):
            raise RecipeError(
                f"There is no anchor mode '{self.anchor_mode}'; there are {', '.join(get_args(AnchorMode))}."
            )
        for field in ("anchor_every", "k", "rows", "length", "epochs", "patience"):
            if getattr(self, field) < 1:
                raise RecipeError(f"{field} is {getattr(self, field)}: it must be at least 1.")
        if not 0 <= self.anchor_weight < float("inf"):
            raise RecipeError(f"lambda is {self.anchor_weight}: it must be a number, not below 0.")
        if self.frozen and self.anchor_weight:
            raise RecipeError(
                f"{self.name} freezes the decoder, so that lambda {self.anchor_weight} would pull at nothing; leave it out."
            )


PAPER_RECIPES = {
    recipe.name: recipe
    for recipe in (
        PaperRecipe("paper-plain"),
        PaperRecipe("paper-soft", anchor_weight=1e-4),
        PaperRecipe("paper-hard", frozen=True),
    )
}


def paper_recipe(
    name: str,
    *,
    anchor_weight: float | None = None,
    anchor_mode: str | None = None,
    anchor_every: int | None = None,
    k: int | None = None,
) -> PaperRecipe:
    """The named recipe with what is given changed. Raises RecipeError for an unknown name or options that say
    nothing to it.
    """
    if name not in PAPER_RECIPES:
        raise RecipeError(f"There is no recipe '{name}'; the paper's are {', '.join(PAPER_RECIPES)}.")
    asked = {"anchor_weight": anchor_weight, "anchor_mode": anchor_mode, "anchor_every": anchor_every}
    given: dict[str, Any] = {field: value for field, value in asked.items() if value is not None}
    if given and name != "paper-soft":
        raise RecipeError(
            f"{name} has no anchor term: lambda, the anchor mode and anchor-every belong to paper-soft."
        )
    if name == "paper-soft" and anchor_weight == 0:
        raise RecipeError("paper-soft with lambda 0 is paper-plain; ask for that.")
    return replace(PAPER_RECIPES[name], **given | ({} if k is None else {"k": k}))


class Rows(NamedTuple):
    """The activations of whole rows of text, one after another, padding left out."""

    activations: Tensor
    """[n, d] at raw scale, any float type"""
    tokens: Tensor
    """[n] the token each activation stands on"""
    starts: Tensor
    """[r] where each row begins, ascending from 0"""


class PaperLine(NamedTuple):
    """One line of train.jsonl."""

    step: int
    epoch: int
    tokens: int
    loss: float
    """mean squared error a dimension at raw scale since the last line, without the anchor term"""
    anchor_score: float | None
    """mean over all features, when the anchor term last entered"""
    validation_loss: float | None
    """at the end of an epoch"""
    live: float
    """share of features that fired since the epoch began"""
    tokens_per_second: float
    seconds: float


class PaperTrained(NamedTuple):
    dictionary: Dictionary
    """in raw space"""
    fit: AnchorFit
    """anchors: raw W_E, no mean taken off"""
    log: list[PaperLine]


class PaperSAE(nn.Module):
    """Linear encoder, ReLU, TopK, linear decoder; `nn.Linear`'s own initialisation, no norm constraint."""

    def __init__(self, recipe: PaperRecipe, d_in: int, d_sae: int, embedding: Tensor) -> None:
        super().__init__()
        self.k = recipe.k
        self.encoder = nn.Linear(d_in, d_sae)
        self.decoder = nn.Linear(d_sae, d_in, bias=not recipe.frozen)
        if recipe.frozen:
            self.decoder.weight = nn.Parameter(embedding.T.contiguous(), requires_grad=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x [n, d] → (reconstruction [n, d], code [n, d_sae] with k entries a row that may be non-zero)."""
        activations = self.encoder(x).relu()
        values, indices = activations.topk(self.k, dim=-1)
        code = torch.zeros_like(activations).scatter(-1, indices, values)
        return self.decoder(code), code

    @property
    def directions(self) -> Tensor:
        """[d_sae, d] the decoder's columns, as rows."""
        return self.decoder.weight.T


def anchor_scores(directions: Tensor, anchors: Tensor, mode: AnchorMode) -> Tensor:
    """[n] how well each direction [n, d] is anchored (METHOD.md §1), differentiable in `directions`.

    Which anchors are nearest needs no gradient; the cosines to them do. That is the gradient of max and of
    topk, at a third of the cost.
    """
    unit = F.normalize(anchors.detach(), dim=-1)
    scores = []
    for part in directions.split(CHUNK):
        rows = F.normalize(part, dim=-1)
        with torch.no_grad():
            nearest = (
                (rows @ unit.T).topk(1 if mode == "nearest" else min(NEAREST, len(unit)), dim=-1).indices
            )
        cosines = torch.einsum("nd,nmd->nm", rows, unit[nearest])
        if mode == "nearest":
            scores.append(cosines[:, 0])
        elif mode == "logsumexp":
            scores.append(cosines.logsumexp(-1))
        else:
            scores.append((cosines.softmax(-1) * cosines).sum(-1))
    return torch.cat(scores)


def row_batches(rows: Rows, recipe: PaperRecipe, random: torch.Generator | None = None) -> Iterator[Tensor]:
    """Indices [m] of the activations of `recipe.rows` rows at a time, in random order where a generator is
    given.
    """
    ends = torch.cat([rows.starts[1:], torch.tensor([len(rows.activations)])])
    order = torch.arange(len(ends)) if random is None else torch.randperm(len(ends), generator=random)
    for picked in order.split(recipe.rows):
        spans = zip(rows.starts[picked].tolist(), ends[picked].tolist(), strict=True)
        yield torch.cat([torch.arange(start, end) for start, end in spans])


@torch.no_grad()
def validation_loss(sae: PaperSAE, rows: Rows, recipe: PaperRecipe, device: torch.device) -> float:
    """Mean squared error a dimension over all of `rows`; the anchor term has no part in early stopping."""
    total = 0.0
    for batch in row_batches(rows, recipe):
        x = rows.activations[batch].to(device).float()
        total += F.mse_loss(sae(x)[0], x).item() * len(x)
    return total / len(rows.activations)


class _Progress:
    """What a log line is made of, gathered step by step."""

    def __init__(self, d_sae: int, device: torch.device, report: Callable[[PaperLine], None]) -> None:
        self.lines: list[PaperLine] = []
        self.report = report
        self.step, self.epoch, self.tokens = 0, 0, 0
        self.fired = torch.zeros(d_sae, dtype=torch.bool, device=device)
        self.score: Tensor | None = None
        self._errors: list[Tensor] = []
        self._begun = self._since = time.monotonic()
        self._tokens_before = 0

    def saw(self, code: Tensor, error: Tensor) -> None:
        self.tokens += len(code)
        self.fired |= (code > 0).any(0)
        self._errors.append(error.detach())

    def write(self, validated: float | None = None) -> None:
        now = time.monotonic()
        line = PaperLine(
            step=self.step,
            epoch=self.epoch,
            tokens=self.tokens,
            loss=round(float(torch.stack(self._errors).mean()), 6) if self._errors else self.lines[-1].loss,
            anchor_score=None if self.score is None else round(self.score.item(), 5),
            validation_loss=None if validated is None else round(validated, 6),
            live=round(self.fired.float().mean().item(), 4),
            tokens_per_second=round((self.tokens - self._tokens_before) / max(now - self._since, 1e-9), 1),
            seconds=round(now - self._begun, 1),
        )
        self._since, self._tokens_before, self._errors = now, self.tokens, []
        self.lines.append(line)
        self.report(line)


def train_paper(
    recipe: PaperRecipe,
    training: Rows,
    validation: Rows,
    *,
    embedding: Tensor,
    d_sae: int,
    seed: int = 0,
    device: torch.device | str = "cpu",
    every: int = 50,
    report: Callable[[PaperLine], None] = lambda line: None,
) -> PaperTrained:
    """Train one dictionary as the paper does; embedding is W_E [vocab, d]; a log line every `every` steps and
    every epoch.

    Raises RecipeError where the recipe does not fit the width, the model or the rows.
    """
    _check(recipe, training, validation, embedding, d_sae)
    device, random = torch.device(device), torch.Generator().manual_seed(seed)
    anchors = embedding.to(device).float()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        sae = PaperSAE(recipe, training.activations.shape[1], d_sae, anchors).to(device)
    optimiser = torch.optim.Adam([p for p in sae.parameters() if p.requires_grad], lr=recipe.learning_rate)
    progress = _Progress(d_sae, device, report)
    best, best_loss, waited = copy.deepcopy(sae.state_dict()), float("inf"), 0
    while progress.epoch < recipe.epochs and waited < recipe.patience:
        progress.epoch += 1
        progress.fired.zero_()
        for batch in row_batches(training, recipe, random):
            progress.step += 1
            paper_step(
                recipe, sae, optimiser, training.activations[batch].to(device).float(), anchors, progress
            )
            if progress.step % every == 0:
                progress.write()
        validated = validation_loss(sae, validation, recipe, device)
        progress.write(validated)
        waited += 1
        if validated < best_loss:
            best, best_loss, waited = copy.deepcopy(sae.state_dict()), validated, 0
    sae.load_state_dict(best)
    return PaperTrained(_dictionary(sae), _anchor_fit(recipe, training, embedding, d_sae), progress.lines)


def paper_step(
    recipe: PaperRecipe,
    sae: PaperSAE,
    optimiser: torch.optim.Optimizer,
    x: Tensor,
    anchors: Tensor,
    progress: _Progress,
) -> None:
    """One step of Adam on the mean squared error of x [n, d] − λ · the mean anchor score, where this step has
    the anchor term.
    """
    reconstruction, code = sae(x)
    error = F.mse_loss(reconstruction, x)
    loss = error
    if recipe.anchor_weight and progress.step % recipe.anchor_every == 0:
        score = anchor_scores(sae.directions, anchors, recipe.anchor_mode).mean()
        loss = error - recipe.anchor_weight * score
        progress.score = score.detach()
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    progress.saw(code, error)


def _check(recipe: PaperRecipe, training: Rows, validation: Rows, embedding: Tensor, d_sae: int) -> None:
    vocab, d_embedding = embedding.shape
    if recipe.k > d_sae:
        raise RecipeError(f"k is {recipe.k}: it must be between 1 and the dictionary's width, {d_sae}.")
    if recipe.frozen and d_sae != vocab:
        raise RecipeError(
            f"{recipe.name} has one feature a token: its width is the vocabulary's, {vocab}, not {d_sae}."
        )
    if d_embedding != training.activations.shape[1]:
        raise RecipeError(
            f"The paper's anchors are the token embedding itself: its width, {d_embedding}, must be "
            f"that of the residual stream, {training.activations.shape[1]}."
        )
    for rows, which in ((training, "train on"), (validation, "validate on")):
        if len(rows.starts) == 0 or len(rows.activations) == 0:
            raise RecipeError(
                f"There are no rows of text to {which}; the paper's recipes stop by a validation loss. Give more text."
            )


def _dictionary(sae: PaperSAE) -> Dictionary:
    bias = sae.decoder.bias
    return Dictionary(
        W_enc=sae.encoder.weight.detach().cpu().T.contiguous(),
        b_enc=sae.encoder.bias.detach().cpu(),
        W_dec=sae.directions.detach().cpu().contiguous(),
        b_dec=torch.zeros(sae.decoder.out_features) if bias is None else bias.detach().cpu(),
        selection=TopK(sae.k),
    )


def _anchor_fit(recipe: PaperRecipe, training: Rows, embedding: Tensor, d_sae: int) -> AnchorFit:
    """Raw W_E, nothing taken off; only a frozen row belongs to a token beforehand."""
    vocab, d_in = embedding.shape
    counts = torch.bincount(training.tokens.long(), minlength=vocab).float()
    assigned = torch.arange(d_sae) if recipe.frozen else torch.full((d_sae,), -1)
    return AnchorFit(embedding.float().cpu(), counts, torch.zeros(d_in), assigned)
