"""One steer from job to events: default and steered text drawn side by side as two rows of one batch, with the same random numbers.

Knows nothing about sockets or queues: a SteerJob goes in, `Steer*` records come out.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from lexiscope.errors import ModelError
from lexiscope.language_model import LanguageModel
from lexiscope.records import Generated, NamedEffect, SteerDone, SteerEffect, SteerResolved, SteerStep
from lexiscope.tokens import Vocabulary
from server.live.detokenise import Detokeniser
from server.live.interventions import Cancelled, patches
from server.live.shelf import Shelf
from server.live.wire import Event, Intervention, SteerJob

SEEDS = 2**63


def steer(job: SteerJob, shelf: Shelf, *, cancelled: Callable[[], bool] = lambda: False) -> Iterator[Event]:
    """The events of one job. Everything that can be wrong with it is raised before the first one.

    Raises NotLoadable (model or checkpoint gone), ModelError and CheckpointError (what was asked does not fit), and Cancelled,
    at the latest one forward pass after `cancelled` turns true.
    """
    model, vocabulary = shelf.model(job.model_path, job.model)
    prompt = model.tokenise(job.prompt)
    _check(job, prompt, model)
    patched = patches(job.interventions, lambda path: shelf.dictionary(path, model.device), model, cancelled=cancelled)
    if cancelled():
        raise Cancelled
    yield SteerResolved(
        features=[asked.feature for asked in job.interventions], prompt_tokens=[vocabulary.token(token) for token in prompt]
    )
    rows = [_Row(model, vocabulary, prompt), _Row(model, vocabulary, prompt)]
    batch = torch.tensor([[model.bos, *prompt]] * 2, device=model.device)
    begun = time.perf_counter()
    steps = model.stream(batch, max_tokens=job.max_tokens, temperature=job.temperature, seed=job.seed % SEEDS, patches=patched)
    for number, step in enumerate(steps):
        if cancelled():
            raise Cancelled
        log_probabilities = step.logits.log_softmax(-1)
        if not torch.isfinite(step.logits).all():
            raise ModelError("The steered model gives no finite probabilities any more: use a smaller strength.")
        last = number + 1 == job.max_tokens
        drawn = zip(rows, step.tokens.tolist(), log_probabilities, strict=True)
        default, steered = [row.add(token, log_probability[token].item(), last=last) for row, token, log_probability in drawn]
        yield SteerStep(default=default, steered=steered)
        if number == 0:
            yield effect(job.interventions, log_probabilities)
        if all(row.ended for row in rows):
            break
    speed = sum(row.n_tokens for row in rows) / max(time.perf_counter() - begun, 1e-9)
    yield SteerDone(default_text=rows[0].detokeniser.text, steered_text=rows[1].detokeniser.text, tokens_per_second=speed)


def _check(job: SteerJob, prompt: Sequence[int], model: LanguageModel) -> None:
    if not prompt:
        raise ModelError(f"The prompt holds no token of {model.id}: write at least one word.")
    if 1 + len(prompt) + job.max_tokens > model.context_length:
        room = max(model.context_length - job.max_tokens - 1, 0)
        raise ModelError(
            f"The prompt is {len(prompt):,} tokens; beside {job.max_tokens} new ones, {model.id}'s context of "
            f"{model.context_length:,} has room for {room:,}. Shorten the prompt or ask for fewer tokens."
        )
    unknown = [asked.feature for asked in job.interventions if not 0 <= asked.feature.name.id < model.vocab_size]
    if unknown:
        raise ModelError(f"{unknown[0].id} is named by token {unknown[0].name.id}, but {model.id} has {model.vocab_size:,} tokens.")


def effect(interventions: Sequence[Intervention], log_probabilities: Tensor) -> SteerEffect:
    """What changed at one position, from log-probabilities [2, vocab] of the default and the steered row. Rank 0 is the top."""
    default, steered = log_probabilities.double()
    effects = []
    for asked in interventions:
        name = asked.feature.name.id
        effects.append(
            NamedEffect(
                feature=asked.feature,
                mode=asked.mode,
                strength=asked.strength,
                probability_default=default[name].exp().item(),
                probability_steered=steered[name].exp().item(),
                rank_default=int((default > default[name]).sum()),
                rank_steered=int((steered > steered[name]).sum()),
            )
        )
    kl = torch.where(steered.exp() > 0, steered.exp() * (steered - default), 0).sum()
    return SteerEffect(kl_first=max(kl.item(), 0.0), effects=effects)


class _Row:
    """One row of the batch: its text so far, and whether it has drawn the end of text."""

    def __init__(self, model: LanguageModel, vocabulary: Vocabulary, prompt: Sequence[int]) -> None:
        tokenizer: Any = model.tokenizer
        self.detokeniser = Detokeniser(model.text, prompt)
        self.n_tokens = 0
        self.ended = False
        self._eos = tokenizer.eos_token_id
        self._vocabulary = vocabulary

    def add(self, token: int, logprob: float, *, last: bool) -> Generated | None:
        """The event of one drawn token; None after the end of text, whose own event carries no text of its own."""
        if self.ended:
            return None
        self.n_tokens += 1
        self.ended = token == self._eos
        text = "" if self.ended else self.detokeniser.add(token)
        if self.ended or last:
            text += self.detokeniser.rest()
        return Generated(token=self._vocabulary.token(token), text=text, logprob=logprob)
