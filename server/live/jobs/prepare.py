"""What every job does first: load the model and its dictionaries, tokenise, check, and join a batch."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from lexiscope.errors import CheckpointError, ModelError
from lexiscope.language_model import LanguageModel
from server.live.generation.batches import Batches, JobRows, JobSteps, Pause
from server.live.interventions import LoadDictionary, LoadedDictionary, SteerPlan
from server.live.messages import (
    DictionaryPath,
    Intervention,
    LocatedFeature,
    ModelJob,
    ReadJob,
    SteerJob,
    SweepJob,
)
from server.live.model_cache import CachedModel, ModelCache, NotLoadable

LOADER = ThreadPoolExecutor(2, thread_name_prefix="load")


def load_model(cache: ModelCache, job: ModelJob, checkpoints: list[str]) -> JobSteps[CachedModel]:
    """The job's model, with its dictionaries in memory. Other jobs continue while files are read. Raises
    NotLoadable, also for a model or a dictionary with other weights than those that were indexed.
    """
    if cache.has(job.model_path, job.model, checkpoints):
        cached = cache.prepare(job.model_path, job.model, checkpoints)
    else:
        future = LOADER.submit(cache.prepare, job.model_path, job.model, checkpoints)
        while not future.done():
            yield Pause.LOAD
        cached = future.result()
    if job.model_identity not in ("", cached.model.identity):
        raise NotLoadable(
            f"{job.model_path} is not the model that was indexed as {job.model}: its weights or its "
            "vocabulary differ. Index the dictionaries again with this one, under another --model-id if both "
            "are in use."
        )
    check_identities(cache, _dictionaries(job))
    return cached


def load_dictionaries(
    cache: ModelCache, used: Sequence[DictionaryPath | LocatedFeature]
) -> JobSteps[list[LoadedDictionary]]:
    """Dictionaries without a model. Raises NotLoadable, as `load_model`."""
    future = LOADER.submit(lambda: [cache.dictionary(one.checkpoint_path) for one in used])
    while not future.done():
        yield Pause.LOAD
    found = future.result()
    check_identities(cache, used)
    return found


def check_identities(cache: ModelCache, dictionaries: Sequence[DictionaryPath | LocatedFeature]) -> None:
    """Raises NotLoadable for a dictionary with other weights than those that were indexed."""
    for used in dictionaries:
        if used.identity not in ("", cache.dictionary(used.checkpoint_path).identity):
            raise NotLoadable(
                f"{used.checkpoint_path} is not the dictionary that was indexed: its weights have changed. "
                "Index it again."
            )


def _dictionaries(job: ModelJob) -> list[DictionaryPath | LocatedFeature]:
    """Everything in the job that refers to a checkpoint."""
    if isinstance(job, ReadJob):
        return [*job.sources, *([] if job.follow is None else [job.follow])]
    features = [used for one in job.interventions for used in (one, one.to, one.when) if used is not None]
    plain = [] if job.controls is None else job.controls.plain
    moved = job.moved if isinstance(job, SteerJob) else None
    return [*features, *plain, *([] if moved is None else [moved])]


def checkpoints_of(interventions: Sequence[Intervention]) -> list[str]:
    """The checkpoints that interventions need, each once."""
    features: list[LocatedFeature | None] = [
        feature for one in interventions for feature in (one, one.to, one.when)
    ]
    return list(dict.fromkeys(feature.checkpoint_path for feature in features if feature is not None))


def at_most(load: LoadDictionary, k: int | None) -> LoadDictionary:
    """Dictionaries with the k strongest features of a token. Raises ModelError where one has no fixed number
    of them.
    """
    if k is None:
        return load

    def loaded(path: str) -> LoadedDictionary:
        found = load(path)
        try:
            fewer = replace(found.dictionary, selection=found.dictionary.selection.at_most(k))
        except CheckpointError as error:
            name = Path(path).name
            raise ModelError(f"{name} cannot be read at k {k}: {error}. Leave k out.") from error
        return found._replace(dictionary=fewer)

    return loaded


def tokenise(model: LanguageModel, text: str, *, chat: bool, spelled_bos: bool = False) -> list[int]:
    """Token ids of a text or, with `chat`, of the user's message. With `spelled_bos`, a BOS that the text
    begins with is left out. Raises ModelError if there are none, or the model has no chat template.
    """
    if spelled_bos:
        text = text.removeprefix(model.vocabulary.raw[model.bos].decode(errors="replace"))
    tokens = model.tokenise_chat(text) if chat else model.tokenise(text)
    if not tokens:
        raise ModelError(f"The text has no token of {model.id}. Write at least one word.")
    return tokens


def tokenise_notes(model: LanguageModel, texts: Sequence[str], *, chat: bool) -> list[str]:
    """How the texts are read, where that may surprise."""
    spelled = sorted({token for text in texts for token in model.special_tokens_in(text)})
    if chat or not spelled:
        return []
    return [
        f"{', '.join(spelled)}: special tokens in a text are read as characters. With chat they are read as"
        " tokens."
    ]


def tokenise_prompt(model: LanguageModel, job: SteerJob | SweepJob) -> list[int]:
    """The prompt's token ids. Raises ModelError if there are none, or more than fit the context."""
    spelled = isinstance(job, SteerJob) and job.spelled_bos
    prompt = tokenise(model, job.prompt, chat=job.chat, spelled_bos=spelled)
    max_tokens = job.max_tokens
    if 1 + len(prompt) + max_tokens > model.context_length:
        room = max(model.context_length - max_tokens - 1, 0)
        raise ModelError(
            f"The prompt has {len(prompt):,} tokens. With {max_tokens} new tokens, {model.id}'s context of "
            f"{model.context_length:,} has room for {room:,}. Shorten the prompt or request fewer tokens."
        )
    return prompt


def check_interventions(interventions: Sequence[Intervention], model: LanguageModel, length: int) -> None:
    """Raises ModelError for a name that is not in the vocabulary, and for a position at or after `length`."""
    for one in interventions:
        for located in (one, one.to):
            if located is not None and not 0 <= located.watched.id < model.vocab_size:
                raise ModelError(
                    f"{located.feature.id} should change token {located.watched.id}, "
                    f"but {model.id} has {model.vocab_size:,} tokens."
                )
        if one.positions and max(one.positions) >= length:
            raise ModelError(
                f"{one.feature.id}: position {max(one.positions)} does not exist. "
                f"Prompt and new tokens have positions 0 to {length - 1}."
            )


@contextmanager
def rows_in_batch(
    batches: Batches,
    model: LanguageModel,
    prompt: Sequence[int],
    plans: Sequence[SteerPlan | None],
    cancelled: Callable[[], bool],
) -> Iterator[JobRows]:
    """Rows in a batch while the block runs."""
    rows = batches.join(model, prompt, plans, cancelled=cancelled)
    try:
        yield rows
    finally:
        rows.leave()


def finite(logits: Tensor) -> Tensor:
    """The same logits. Raises ModelError if some are not finite."""
    if not torch.isfinite(logits).all():
        raise ModelError("The steered model's logits are not finite. Use a smaller strength.")
    return logits
