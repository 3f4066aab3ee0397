"""Documents in; passages out: token ids [BOS, …] of at most the requested length. No passage holds tokens of
two documents.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from lexiscope.errors import TextError
from lexiscope.language_model import LanguageModel
from lexiscope.text.documents import documents

SHORTEST = 8
"""Shorter passages (the end of a document) are left out."""


def passages(
    model: LanguageModel, sources: Sequence[str], *, length: int = 256, tokens: int | None = None
) -> Iterator[np.ndarray]:
    """Passages [≤ length] int32, until they hold `tokens` tokens (BOS not counted) or the text ends.

    Several sources are read in turn, a passage of each, so that a limit on tokens takes from all of them.
    Raises TextError as `documents` does, and where the whole text gives no passage of SHORTEST tokens.
    """
    length = min(length, model.context_length)
    left = tokens if tokens is not None else float("inf")
    empty = True
    streams = [_source_passages(model, source, length) for source in sources]
    while streams:
        for stream in list(streams):
            passage = next(stream, None)
            if passage is None:
                streams.remove(stream)
                continue
            empty = False
            yield passage
            left -= len(passage) - 1
            if left <= 0:
                return
    if empty:
        raise TextError(f"The text ({', '.join(sources)}) is shorter than one passage of {SHORTEST} tokens.")


def _source_passages(model: LanguageModel, source: str, length: int) -> Iterator[np.ndarray]:
    for document in documents(source):
        ids = np.asarray(model.tokenise(document), dtype=np.int32)
        for start in range(0, len(ids), length - 1):
            body = ids[start : start + length - 1]
            if len(body) >= SHORTEST - 1:
                yield np.concatenate([np.array([model.bos], dtype=np.int32), body])
