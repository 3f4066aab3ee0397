"""Texts through dictionaries: which features fire on each token, and what each dictionary leaves unexplained.
Position 0 is not read.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from lexiscope.errors import ModelError
from server.live.batches import Pause, Work
from server.live.generation import loaded
from server.live.interventions import ENCODE_POSITIONS, Cancelled, Loaded, feature
from server.live.messages import RawRead, RawReading, RawTokens, ReadJob, Source
from server.live.model_cache import Shelf


def read(job: ReadJob, shelf: Shelf, *, cancelled: Callable[[], bool] = lambda: False) -> Work[None]:
    """`tokens`, a `reading` for each text and dictionary, `read`. Raises NotLoadable, ModelError,
    CheckpointError, Cancelled.
    """
    paths = [source.checkpoint_path for source in job.sources] + (
        [] if job.follow is None else [job.follow.checkpoint_path]
    )
    model, vocabulary = yield from loaded(shelf, job.model_path, job.model, paths)
    texts = [model.tokenise(text) for text in job.texts]
    for tokens in texts:
        if not tokens:
            raise ModelError(f"The text holds no token of {model.id}: write at least one word.")
        if len(tokens) >= model.context_length:
            raise ModelError(
                f"The text is {len(tokens):,} tokens; {model.id} reads {model.context_length - 1:,} at once. Shorten it."
            )
    followed = None if job.follow is None else feature(job.follow, shelf.dictionary, model)
    layers = sorted(
        {source.layer for source in job.sources} | ({job.follow.feature.layer} if job.follow else set())
    )
    model.check_layers(layers)
    wrong = [
        source
        for source in job.sources
        if shelf.dictionary(source.checkpoint_path).dictionary.d_in != model.d_model
    ]
    if wrong:
        raise ModelError(
            f"{wrong[0].checkpoint_path} does not fit {model.id}: it reads another width than {model.d_model}."
        )
    yield RawTokens(texts=[[vocabulary.token(token) for token in tokens] for tokens in texts])
    values: list[list[float]] = []
    for number, tokens in enumerate(texts):
        if cancelled():
            raise Cancelled
        residuals = model.read(torch.tensor([[model.bos, *tokens]], device=model.device), layers)
        yield Pause.TURN
        for source in job.sources:
            if cancelled():
                raise Cancelled
            yield _reading(
                number,
                source,
                shelf.dictionary(source.checkpoint_path),
                residuals[source.layer][0, 1:].float(),
            )
            yield Pause.TURN
        if job.follow is not None and followed is not None:
            values.append(followed.activation(residuals[job.follow.feature.layer][0, 1:].float()).tolist())
    yield RawRead(followed=values if followed is not None else None)


def _reading(text: int, source: Source, loaded: Loaded, x: Tensor) -> RawReading:
    """From the residual stream [n, d_model] at the text's tokens."""
    dictionary = loaded.dictionary
    indices: list[list[int]] = []
    values: list[list[float]] = []
    error: list[Tensor] = []
    for part in x.split(ENCODE_POSITIONS):
        code = dictionary.encode(part)
        for fired, value in zip(code.indices.tolist(), code.values.tolist(), strict=True):
            n = sum(activation > 0 for activation in value)
            indices.append(fired[:n])
            values.append(value[:n])
        error.append((part - dictionary.decode(code, part)).norm(dim=-1))
    norm = x.norm(dim=-1).clamp_min(1e-12)
    return RawReading(
        text=text,
        source=source.source,
        indices=indices,
        values=values,
        error=(torch.cat(error) / norm).tolist(),
        dense=(dictionary.dense_part(x).norm(dim=-1) / norm).tolist(),
    )
