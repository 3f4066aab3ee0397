"""Documents in; passages out: token ids [BOS, …] of at most the requested length. No passage holds tokens of
two documents.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from lexiscope.errors import TextError
from lexiscope.language_model import LanguageModel
from lexiscope.text.documents import documents
from lexiscope.text.fields import Conversation
from lexiscope.text.report import TextReport
from lexiscope.text.request import Text
from lexiscope.text.spool import Sourced, Spool, spooled

SHORTEST = 8
"""Shorter passages (the end of a document) are left out."""


class Passages:
    """The passages [≤ length] int32 of a text for a model, until they hold `tokens` tokens (BOS not counted).

    May be iterated many times; the text is tokenised once. `report` counts what all iterations read.
    """

    def __init__(self, spool: Spool, tokens: int | None) -> None:
        self._spool = spool
        self._tokens = tokens

    @property
    def report(self) -> TextReport:
        return self._spool.report

    def __iter__(self) -> Iterator[np.ndarray]:
        return (passage.ids for passage in self.sourced())

    def sourced(self) -> Iterator[Sourced]:
        """Each passage with the number of its source."""
        left = self._tokens if self._tokens is not None else float("inf")
        for passage in self._spool:
            yield passage
            left -= len(passage.ids) - 1
            if left <= 0:
                return


def passages(
    model: LanguageModel, text: Text | Sequence[str], *, length: int = 256, tokens: int | None = None
) -> Passages:
    """Passages of at most `length` tokens, and together of `tokens`.

    Several sources are read in turn, a passage of each, so that a limit on tokens takes from all of them.
    Iterating raises TextError as `documents` does, and where the whole text gives no passage.
    """
    text, length = Text.of(text), min(length, model.context_length)
    return Passages(spooled(model, text, length, lambda report: _read(model, text, length, report)), tokens)


def _read(model: LanguageModel, text: Text, length: int, report: TextReport) -> Iterator[Sourced]:
    streams = dict(enumerate(_of_source(model, source, text, length, report) for source in text.sources))
    while streams:
        for source, stream in list(streams.items()):
            passage = next(stream, None)
            if passage is None:
                del streams[source]
                continue
            report.passages += 1
            report.tokens += len(passage) - 1
            yield Sourced(source, passage)
    report.ended = True
    if not report.passages:
        raise TextError(
            f"Every document of the text ({text}) is shorter than one passage, which needs {SHORTEST - 1}"
            f" tokens: of {report.short:,}, the longest has {report.longest_short}. Join several into one."
        )


def _of_source(
    model: LanguageModel, source: str, text: Text, length: int, report: TextReport
) -> Iterator[np.ndarray]:
    bos = np.array([model.bos], dtype=np.int32)
    for document in documents(source, field=text.field, report=report):
        ids = np.asarray(_tokenised(model, document, text, report), dtype=np.int32)
        if len(ids) < SHORTEST - 1:
            report.short += 1
            report.longest_short = max(report.longest_short, len(ids))
            continue
        report.documents += 1
        for start in range(0, len(ids), length - 1):
            body = ids[start : start + length - 1]
            if len(body) >= SHORTEST - 1:
                yield np.concatenate([bos, body])
            else:
                report.ends += len(body)


def _tokenised(
    model: LanguageModel, document: str | Conversation, text: Text, report: TextReport
) -> list[int]:
    if text.chat or not isinstance(document, str):
        return model.tokenise_chat(document)
    report.spelled.update(model.special_tokens_in(document))
    tokens = model.tokenise(document)
    report.unknown += model.count_unknown(tokens)
    return tokens
