"""The steer job: the default and the steered text of one prompt, generated side by side with the same random
numbers, then measured.
"""

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lexiscope.records import ScoredToken
from lexiscope.records.live import GeneratedToken, SteerDone, SteerResolved, SteerStep
from lexiscope.tokens import Vocabulary
from server.live.generation import Batches, GeneratedRow, JobSteps, Pause, Sampler
from server.live.interventions import Cancelled, make_plan
from server.live.jobs.effects import FinishedRun, first_token_effect, measure_run
from server.live.jobs.prepare import (
    at_most,
    check_interventions,
    checkpoints_of,
    finite,
    load_model,
    rows_in_batch,
    tokenise_notes,
    tokenise_prompt,
)
from server.live.messages import SteerJob
from server.live.model_cache import ModelCache


def steer(
    job: SteerJob, cache: ModelCache, batches: Batches, *, cancelled: Callable[[], bool] = lambda: False
) -> JobSteps[None]:
    """The events of one steer. Everything in the job is checked before the first event.

    Raises NotLoadable (model or checkpoint missing), ModelError and CheckpointError (the job does not fit the
    model or the dictionary), and Cancelled, at most one forward pass after `cancelled` becomes true.
    """
    model, vocabulary = yield from load_model(cache, job, _checkpoints(job))
    prompt = tokenise_prompt(model, job)
    plan = make_plan(job.interventions, at_most(cache.dictionary, job.k), model, prompt=len(prompt))
    check_interventions(job.interventions, model, len(prompt) + job.max_tokens)
    if cancelled():
        raise Cancelled
    yield SteerResolved(
        features=[one.feature for one in job.interventions],
        prompt_tokens=[vocabulary.token(token) for token in prompt],
        notes=tokenise_notes(model, [job.prompt], chat=job.chat),
    )
    default, steered = rows = [
        GeneratedRow(model, prompt, max_tokens=job.max_tokens, stop=job.stop) for _ in range(2)
    ]
    sampler = Sampler(job, len(rows), model.vocab_size, model.device)
    begun = time.perf_counter()
    with rows_in_batch(batches, model, prompt, [None, plan], cancelled) as in_batch:
        while True:
            log_probabilities = finite(in_batch.logits).log_softmax(-1)
            tokens = sampler.draw(in_batch.logits)
            first = not default.tokens
            step = _generated(rows, tokens.tolist(), log_probabilities, vocabulary, job.top_logprobs)
            yield SteerStep(default=step[0], steered=step[1])
            if first:
                yield first_token_effect(job.interventions, log_probabilities)
            if all(row.end for row in rows):
                break
            in_batch.put(tokens)
            yield Pause.STEP
            if cancelled():
                raise Cancelled
    seconds = time.perf_counter() - begun
    run = FinishedRun(prompt, default.tokens, steered.tokens, plan)
    yield (yield from measure_run(job, run, model, cache.dictionary, cancelled=cancelled))
    yield SteerDone(
        default_text=default.text,
        steered_text=steered.text,
        default_end=default.end or "length",
        steered_end=steered.end or "length",
        tokens_per_second=sum(len(row.tokens) for row in rows) / max(seconds, 1e-9),
    )


def _checkpoints(job: SteerJob) -> list[str]:
    plain = [] if job.controls is None else [path.checkpoint_path for path in job.controls.plain]
    moved = [] if job.moved is None else [job.moved.checkpoint_path]
    return [*checkpoints_of(job.interventions), *plain, *moved]


def _generated(
    rows: Sequence[GeneratedRow],
    tokens: Sequence[int],
    log_probabilities: Tensor,
    vocabulary: Vocabulary,
    n_top: int,
) -> list[GeneratedToken | None]:
    """Add the tokens to the rows. For each row the token's event, None if the row has ended before."""
    best = log_probabilities.topk(n_top)
    own = log_probabilities[torch.arange(len(rows)), list(tokens)].tolist()
    events: list[GeneratedToken | None] = []
    for row, token, logprob, scores, ids in zip(
        rows, tokens, own, best.values.tolist(), best.indices.tolist(), strict=True
    ):
        if row.end is not None:
            events.append(None)
            continue
        top = [
            ScoredToken(id=other, shown=vocabulary.shown[other], raw=vocabulary.raw[other].hex(), score=score)
            for other, score in zip(ids, scores, strict=True)
        ]
        shown = vocabulary.token(token)
        events.append(GeneratedToken(token=shown, text=row.add(token), logprob=logprob, top=top))
    return events
