"""The read job: texts encoded by dictionaries, with the error of each reconstruction. Position 0 is not
read.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from lexiscope.dictionary import Dictionary
from lexiscope.errors import ModelError
from lexiscope.language_model import LanguageModel
from server.live.generation.batches import JobSteps, Pause
from server.live.interventions import ENCODE_POSITIONS, Cancelled, load_feature
from server.live.jobs.prepare import at_most, load_model, tokenise, tokenise_notes
from server.live.messages import DictionaryPath, RawReadDone, RawReadLayer, RawReadTokens, ReadJob
from server.live.model_cache import ModelCache


def read(job: ReadJob, cache: ModelCache, *, cancelled: Callable[[], bool] = lambda: False) -> JobSteps[None]:
    """`tokens`, one `reading` for each text and dictionary, `read`. Raises NotLoadable, ModelError,
    CheckpointError and Cancelled.
    """
    followed = [] if job.follow is None else [job.follow]
    checkpoints = [source.checkpoint_path for source in job.sources]
    checkpoints += [located.checkpoint_path for located in followed]
    model, vocabulary = yield from load_model(cache, job, checkpoints)
    texts = [_tokenise(model, text, job) for text in job.texts]
    load = at_most(cache.dictionary, job.k)
    features = [load_feature(one, load, model) for one in followed]
    layers = sorted({source.layer for source in job.sources} | {one.feature.layer for one in followed})
    model.check_layers(layers)
    for source in job.sources:
        dictionary = load(source.checkpoint_path).dictionary
        dictionary.check_vocabulary(model.vocab_size, what=source.checkpoint_path)
        if dictionary.d_in != model.d_model:
            raise ModelError(
                f"{source.checkpoint_path} does not fit {model.id}: its input width is not {model.d_model}."
            )
    yield RawReadTokens(
        bos=vocabulary.token(model.bos),
        texts=[[vocabulary.token(token) for token in tokens] for tokens in texts],
        notes=tokenise_notes(model, job.texts, chat=job.chat),
    )
    activations: list[list[float]] = []
    for number, tokens in enumerate(texts):
        if cancelled():
            raise Cancelled
        streams = model.read(torch.tensor([[model.bos, *tokens]], device=model.device), layers)
        yield Pause.TURN
        on = torch.tensor(tokens, device=model.device)
        for source in job.sources:
            if cancelled():
                raise Cancelled
            x = streams[source.layer][0, 1:].float()
            yield _encode(number, source, load(source.checkpoint_path).dictionary, x, on)
            yield Pause.TURN
        for located, feature in zip(followed, features, strict=True):
            x = streams[located.feature.layer][0, 1:].float()
            activations.append(feature.activation(x, on).tolist())
    yield RawReadDone(followed=activations if followed else None)


def _tokenise(model: LanguageModel, text: str, job: ReadJob) -> list[int]:
    tokens = tokenise(model, text, chat=job.chat, spelled_bos=job.spelled_bos)
    if len(tokens) >= model.context_length:
        raise ModelError(
            f"The text has {len(tokens):,} tokens; {model.id} reads at most {model.context_length - 1:,}. "
            "Shorten the text."
        )
    return tokens


def _encode(
    text: int, source: DictionaryPath, dictionary: Dictionary, x: Tensor, tokens: Tensor
) -> RawReadLayer:
    """The code of residual streams x [n, d_model] at the text's tokens [n]."""
    indices: list[list[int]] = []
    values: list[list[float]] = []
    error: list[Tensor] = []
    for part, on in zip(x.split(ENCODE_POSITIONS), tokens.split(ENCODE_POSITIONS), strict=True):
        code = dictionary.encode(part, on)
        for row_indices, row_values in zip(code.indices.tolist(), code.values.tolist(), strict=True):
            n = sum(value != 0 for value in row_values)
            indices.append(row_indices[:n])
            values.append(row_values[:n])
        error.append((part - dictionary.decode(code, part, on)).norm(dim=-1))
    norm = x.norm(dim=-1).clamp_min(1e-12)
    return RawReadLayer(
        text=text,
        source=source.source,
        indices=indices,
        values=values,
        error=(torch.cat(error) / norm).tolist(),
        dense=(dictionary.dense_part(x, tokens).norm(dim=-1) / norm).tolist(),
    )
