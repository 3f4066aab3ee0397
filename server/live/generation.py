"""One steer from job to events: default and steered text drawn side by side as two rows of one batch, with
the same random numbers.

Knows nothing about sockets or queues: a SteerJob goes in; events come out, and pauses where the other jobs
may go on.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch
from torch import Tensor

from lexiscope.errors import ModelError
from lexiscope.language_model import LanguageModel
from lexiscope.records import ScoredToken
from lexiscope.tokens import Vocabulary
from server.live.batches import Batches, Pause, Work, Writer
from server.live.interventions import Cancelled, Plan, plan
from server.live.measure import against, measure, names
from server.live.messages import Intervention, Located, SteerJob
from server.live.model_cache import Shelf, Shelved
from server.live.records import Generated, NamedEffect, SteerDone, SteerEffect, SteerResolved, SteerStep
from server.live.sampling import Sampler
from server.live.writing import Row

LOADER = ThreadPoolExecutor(2, thread_name_prefix="load")


def steer(
    job: SteerJob, shelf: Shelf, batches: Batches, *, cancelled: Callable[[], bool] = lambda: False
) -> Work[None]:
    """The events of one job. Everything that can be wrong with it is raised before the first one.

    Raises NotLoadable (model or checkpoint gone), ModelError and CheckpointError (what was asked does not
    fit), and Cancelled, at the latest one forward pass after `cancelled` turns true.
    """
    extra = [] if job.controls is None else [plain.checkpoint_path for plain in job.controls.plain]
    extra += [] if job.moved is None else [job.moved.checkpoint_path]
    model, vocabulary = yield from loaded(
        shelf, job.model_path, job.model, [*checkpoint_paths(job.interventions), *extra]
    )
    prompt = tokenised(model, job.prompt, job.max_tokens)
    done = plan(job.interventions, shelf.dictionary, model, prompt=len(prompt))
    check(job.interventions, model, len(prompt) + job.max_tokens)
    if cancelled():
        raise Cancelled
    yield SteerResolved(
        features=[asked.feature for asked in job.interventions],
        prompt_tokens=[vocabulary.token(token) for token in prompt],
    )
    rows = [Row(model, prompt, max_tokens=job.max_tokens, stop=job.stop) for _ in range(2)]
    sampler = Sampler(job, 2, model.vocab_size, model.device)
    begun = time.perf_counter()
    with writing(batches, model, prompt, [None, done], cancelled) as writer:
        while True:
            log_probabilities = finite(writer.logits).log_softmax(-1)
            tokens = sampler.draw(writer.logits)
            first = not rows[0].tokens
            default, steered = _drawn(rows, tokens.tolist(), log_probabilities, vocabulary, job.top_logprobs)
            yield SteerStep(default=default, steered=steered)
            if first:
                yield effect(job.interventions, log_probabilities)
            if all(row.end for row in rows):
                break
            writer.put(tokens)
            yield Pause.STEP
            if cancelled():
                raise Cancelled
    speed = sum(len(row.tokens) for row in rows) / max(time.perf_counter() - begun, 1e-9)
    yield (
        yield from measure(
            model,
            shelf.dictionary,
            prompt,
            rows[0].tokens,
            rows[1].tokens,
            done,
            interventions=job.interventions,
            controls=job.controls,
            moved=job.moved,
            cancelled=cancelled,
        )
    )
    yield SteerDone(
        default_text=rows[0].text,
        steered_text=rows[1].text,
        default_end=rows[0].end or "length",
        steered_end=rows[1].end or "length",
        tokens_per_second=speed,
    )


def loaded(shelf: Shelf, model_path: str, model_id: str, paths: list[str]) -> Work[Shelved]:
    """The model with its dictionaries; the other jobs go on while they are read from disk. Raises
    NotLoadable.
    """
    if not shelf.has(model_path, model_id, paths):
        future = LOADER.submit(shelf.prepare, model_path, model_id, paths)
        while not future.done():
            yield Pause.LOAD
        future.result()
    return shelf.prepare(model_path, model_id, paths)


def checkpoint_paths(interventions: Sequence[Intervention]) -> list[str]:
    places: list[Located | None] = [
        place for asked in interventions for place in (asked, asked.to, asked.when)
    ]
    return list(dict.fromkeys(place.checkpoint_path for place in places if place is not None))


@contextmanager
def writing(
    batches: Batches,
    model: LanguageModel,
    prompt: Sequence[int],
    plans: Sequence[Plan | None],
    cancelled: Callable[[], bool],
) -> Iterator[Writer]:
    """Rows in a batch, taken out again however the block ends."""
    writer = batches.join(model, prompt, plans, cancelled=cancelled)
    try:
        yield writer
    finally:
        writer.leave()


def tokenised(model: LanguageModel, text: str, max_tokens: int) -> list[int]:
    """The prompt's tokens. Raises ModelError: none at all, or more than the context has room for."""
    prompt = model.tokenise(text)
    if not prompt:
        raise ModelError(f"The prompt holds no token of {model.id}: write at least one word.")
    if 1 + len(prompt) + max_tokens > model.context_length:
        room = max(model.context_length - max_tokens - 1, 0)
        raise ModelError(
            f"The prompt is {len(prompt):,} tokens; beside {max_tokens} new ones, {model.id}'s context of "
            f"{model.context_length:,} has room for {room:,}. Shorten the prompt or ask for fewer tokens."
        )
    return prompt


def check(interventions: Sequence[Intervention], model: LanguageModel, length: int) -> None:
    """Raises ModelError: a name outside the vocabulary, a position that will never be written."""
    for asked in interventions:
        for place in (asked, asked.to):
            if place is not None and not 0 <= place.feature.name.id < model.vocab_size:
                name = place.feature.name.id
                raise ModelError(
                    f"{place.feature.id} is named by token {name}, but {model.id} has {model.vocab_size:,} tokens."
                )
        if asked.positions and max(asked.positions) >= length:
            raise ModelError(
                f"{asked.feature.id}: there is no position {max(asked.positions)}; prompt and new tokens take positions 0 to {length - 1}."
            )


def finite(logits: Tensor) -> Tensor:
    """Raises ModelError."""
    if not torch.isfinite(logits).all():
        raise ModelError("The steered model gives no finite probabilities any more: use a smaller strength.")
    return logits


def effect(interventions: Sequence[Intervention], log_probabilities: Tensor) -> SteerEffect:
    """What changed at one position, from log-probabilities [2, vocab] of the default and the steered row."""
    named = names(interventions)
    before, after = (against(log_probabilities[[row]], log_probabilities[[0]], named.ids) for row in (0, 1))
    done = [asked for asked in interventions for _ in range(1 if asked.to is None else 2)]
    effects = [
        NamedEffect(
            feature=feature,
            mode=asked.mode,
            strength=asked.strength,
            probability_default=before.probability[0, place].item(),
            probability_steered=after.probability[0, place].item(),
            rank_default=int(before.rank[0, place]),
            rank_steered=int(after.rank[0, place]),
        )
        for place, (feature, asked) in enumerate(zip(named.features, done, strict=True))
    ]
    return SteerEffect(kl_first=after.kl[0].item(), effects=effects)


def _drawn(
    rows: Sequence[Row], tokens: Sequence[int], log_probabilities: Tensor, vocabulary: Vocabulary, n_top: int
) -> list[Generated | None]:
    """The event of each row's new token; None for a row that has ended."""
    best = log_probabilities.topk(n_top)
    own = log_probabilities[torch.arange(len(rows)), list(tokens)].tolist()
    events: list[Generated | None] = []
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
        events.append(Generated(token=vocabulary.token(token), text=row.add(token), logprob=logprob, top=top))
    return events
