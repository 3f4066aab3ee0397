"""Log-probabilities of given texts under the unsteered and the steered model, and their comparison.

Rows of one batch that hold the same values agree up to rounding, not bit for bit. Figures of two rows are
therefore called different only if they differ by more than `ROUNDING`.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lexiscope.language_model import LanguageModel, Patch
from server.live.generation.batches import JobSteps, Pause
from server.live.interventions import SteerPlan, patches_of

LOGITS_AT_ONCE = 1 << 26
"""number of logits in one pass; bounds its memory"""
ROUNDING = 1e-5
"""relative difference up to which two figures count as equal; rounding in float32 causes about 1e-6"""


def above(figure: float, other: float) -> bool:
    """Whether `figure` is larger than `other` by more than rounding."""
    return figure - other > ROUNDING * max(abs(figure), abs(other))


class TextRow(NamedTuple):
    """A text that follows the prompt, and the plan of the row that reads it."""

    text: Sequence[int]
    plan: SteerPlan | None

    @property
    def key(self) -> tuple[tuple[int, ...], int]:
        """Equal for rows of which one is enough: the same text, unsteered or with one plan."""
        steers = self.plan is not None and self.plan.steers
        return tuple(self.text), id(self.plan) if steers else 0


class RowScores(NamedTuple):
    """One row's scores of its text of n tokens."""

    log_probabilities: Tensor
    """[n, vocab] at the positions that predict the tokens"""
    residual: Tensor | None
    """[n, d_model] at the tokens, after the layer that was requested"""


class Comparison(NamedTuple):
    """One row compared with the unsteered model on the same text of n tokens, for m named tokens."""

    kl: Tensor
    """[n] KL(row ‖ unsteered), nats"""
    probability: Tensor
    """[n, m] under the row"""
    rank: Tensor
    """[n, m] under the row; 0 is the most likely token"""


def score_rows(
    model: LanguageModel,
    prompt: Sequence[int],
    rows: Sequence[TextRow],
    *,
    keep: int | None = None,
    cancelled: Callable[[], bool] = lambda: False,
) -> JobSteps[list[RowScores]]:
    """Scores of each row, in passes that fit the memory; equal rows are computed once. `keep` is the layer
    whose residual stream is returned. Raises Cancelled.
    """
    distinct = {row.key: row for row in rows}
    scores: list[RowScores] = []
    longest = max(len(row.text) for row in rows)
    at_once = max(1, LOGITS_AT_ONCE // ((1 + longest) * model.vocab_size))
    pending = list(distinct.values())
    for start in range(0, len(pending), at_once):
        scores += _score(model, prompt, pending[start : start + at_once], longest, keep, cancelled)
        yield Pause.TURN
    by_key = dict(zip(distinct, scores, strict=True))
    return [by_key[row.key] for row in rows]


def _score(
    model: LanguageModel,
    prompt: Sequence[int],
    rows: Sequence[TextRow],
    longest: int,
    keep: int | None,
    cancelled: Callable[[], bool],
) -> list[RowScores]:
    """One pass. Texts shorter than `longest` are followed by BOS, which no earlier position can see."""
    first = len(prompt)
    tokens = torch.full((len(rows), 1 + first + longest), model.bos)
    for number, row in enumerate(rows):
        tokens[number, 1 : 1 + first + len(row.text)] = torch.tensor([*prompt, *row.text])
    kept: list[Tensor] = []
    patches = patches_of([row.plan for row in rows], tokens, [0] * len(rows), cancelled=cancelled)
    if keep is not None:
        patches[keep] = _keeping(patches.get(keep), kept)
    logits = model.logits(tokens.to(model.device), patches, first=first)
    scores = []
    for number, row in enumerate(rows):
        log_probabilities = logits[number, : len(row.text)].float().log_softmax(-1)
        residual = kept[0][number, first + 1 : first + 1 + len(row.text)].float() if kept else None
        scores.append(RowScores(log_probabilities, residual))
    return scores


def _keeping(patch: Patch | None, kept: list[Tensor]) -> Patch:
    """The patch, which also appends the resulting residual stream to `kept`."""

    def keep(residual: Tensor) -> Tensor:
        changed = residual if patch is None else patch(residual)
        kept.append(changed)
        return changed

    return keep


def compare(row: Tensor, unsteered: Tensor, tokens: Sequence[int]) -> Comparison:
    """From log-probabilities [n, vocab] of both."""
    terms = torch.where(row > -torch.inf, row.exp() * (row - unsteered), 0)
    kl = terms.double().sum(-1).clamp_min(0)
    ids = torch.tensor(list(tokens), device=row.device)
    own = row[:, ids]
    rank = torch.stack([(row > own[:, [place]]).sum(-1) for place in range(len(ids))], 1)
    return Comparison(kl, own.double().exp(), rank)


def perplexity(log_probabilities: Tensor, text: Sequence[int]) -> float:
    """exp of the mean negative log-probability of the text's tokens."""
    ids = torch.tensor(list(text), device=log_probabilities.device)[:, None]
    return log_probabilities.double().gather(-1, ids).mean().neg().exp().item()
