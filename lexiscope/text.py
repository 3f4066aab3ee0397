"""Text in, passages out: token ids [BOS, …] of at most the asked length, one document never mixed with the
next.

A source is a file (.txt, .jsonl with a `text` field, each also .xz or .gz) or the name of a Hugging Face
dataset, streamed. A line `<|endoftext|>` separates documents in a text file.
"""

import gzip
import json
import lzma
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lexiscope.errors import TextError
from lexiscope.language_model import LanguageModel

END = "<|endoftext|>"
SHORTEST = 8
"""Passages shorter than this (a document's last scrap) are left out."""
BLOCK = 200_000
"""Characters tokenised at once: bounds memory on a text without separators."""


class Batch(NamedTuple):
    """Passages of similar length, padded on the right (a causal model does not see the padding)."""

    tokens: Tensor
    """[batch, positions] token ids"""
    lengths: Tensor
    """[batch] real positions of each row, BOS included"""
    passages: list[int]
    """index of each row's passage in the stream"""

    @property
    def mask(self) -> Tensor:
        """[batch, positions] True where a position is real and not position 0 (METHOD: never encoded)."""
        at = torch.arange(self.tokens.shape[1])
        return (at[None] > 0) & (at[None] < self.lengths[:, None])

    @property
    def next_tokens(self) -> Tensor:
        """[batch, positions] the token that follows, −1 after a passage's last."""
        following = torch.full_like(self.tokens, -1)
        following[:, :-1] = self.tokens[:, 1:]
        at = torch.arange(self.tokens.shape[1])
        return following.masked_fill(at[None] >= self.lengths[:, None] - 1, -1)


def documents(source: str) -> Iterator[str]:
    """The documents of one source, streamed. Raises TextError: no such file, empty, binary, a line that is no
    JSON.
    """
    path = Path(source)
    if not path.exists():
        if path.suffix or source.startswith((".", "/", "~")):
            raise TextError(f"There is no text at {source}.")
        yield from _hub_documents(source)
        return
    if path.is_dir():
        raise TextError(f"{source} is a folder; give a text file (.txt, .jsonl, each also .xz or .gz).")
    opener: Any = {".xz": lzma.open, ".gz": gzip.open}.get(path.suffix, open)
    is_json = path.name.removesuffix(".xz").removesuffix(".gz").endswith(".jsonl")
    found = False
    try:
        with opener(path, "rt", encoding="utf-8") as file:
            for document in _json_documents(file, source) if is_json else _text_documents(file):
                if "\0" in document:
                    raise TextError(f"{source} is not text: it holds NUL bytes.")
                if document.strip():
                    found = True
                    yield document
    except UnicodeDecodeError as error:
        raise TextError(
            f"{source} is not UTF-8 text: byte {error.object[error.start]:#04x} at {error.start}."
        ) from error
    except (lzma.LZMAError, gzip.BadGzipFile, EOFError) as error:
        raise TextError(f"{source} is a damaged {path.suffix} file: {error}.") from error
    if not found:
        raise TextError(f"{source} is empty: it holds no text.")


def _text_documents(file: IO[str]) -> Iterator[str]:
    lines: list[str] = []
    size = 0
    for line in file:
        if line.strip() == END:
            yield "".join(lines).strip("\n")
            lines, size = [], 0
            continue
        lines.append(line)
        size += len(line)
        if size >= BLOCK:
            yield "".join(lines)
            lines, size = [], 0
    yield "".join(lines).strip("\n")


def _json_documents(file: IO[str], source: str) -> Iterator[str]:
    for number, line in enumerate(file, 1):
        try:
            text = json.loads(line)["text"]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise TextError(f"{source}, line {number}: not a JSON object with a `text` field.") from error
        yield str(text)


def _hub_documents(name: str) -> Iterator[str]:
    from datasets import load_dataset

    try:
        rows = load_dataset(name, split="train", streaming=True)
        for row in rows:
            yield row["text"]
    except Exception as error:  # datasets raises anything from ConnectionError to KeyError
        raise TextError(
            f"'{name}' is neither a file nor a data set that can be streamed: {type(error).__name__}: {error}"
        ) from error


def passages(
    model: LanguageModel, sources: Sequence[str], *, length: int = 256, tokens: int | None = None
) -> Iterator[np.ndarray]:
    """Passages [≤ length] int32, each opened by BOS, until `tokens` tokens (BOS not counted) are out or the
    text ends.

    Several sources are read in turn, a passage of each, so that a limit on tokens does not leave out the last
    ones. Raises TextError as `documents`, and where all the text together is shorter than one passage of
    SHORTEST tokens.
    """
    length = min(length, model.context_length)
    left = tokens if tokens is not None else float("inf")
    found = False
    streams = [_source_passages(model, source, length) for source in sources]
    while streams:
        for stream in list(streams):
            passage = next(stream, None)
            if passage is None:
                streams.remove(stream)
                continue
            found = True
            yield passage
            left -= len(passage) - 1
            if left <= 0:
                return
    if not found:
        raise TextError(f"The text ({', '.join(sources)}) is shorter than one passage of {SHORTEST} tokens.")


def _source_passages(model: LanguageModel, source: str, length: int) -> Iterator[np.ndarray]:
    for document in documents(source):
        ids = np.asarray(model.tokenise(document), dtype=np.int32)
        for start in range(0, len(ids), length - 1):
            body = ids[start : start + length - 1]
            if len(body) >= SHORTEST - 1:
                yield np.concatenate([np.array([model.bos], dtype=np.int32), body])


def batches(stream: Iterable[np.ndarray], *, tokens: int = 8192, window: int = 512) -> Iterator[Batch]:
    """Batches of at most about `tokens` padded tokens; each `window` passages are sorted by length so that
    padding stays small.
    """
    held: list[tuple[int, np.ndarray]] = []

    def drain() -> Iterator[Batch]:
        held.sort(key=lambda item: len(item[1]))
        while held:
            longest = len(held[-1][1])
            rows = [held.pop() for _ in range(min(len(held), max(1, tokens // longest)))]
            padded = np.full((len(rows), longest), rows[0][1][0], dtype=np.int64)
            for row, (_, ids) in enumerate(rows):
                padded[row, : len(ids)] = ids
            lengths = torch.tensor([len(ids) for _, ids in rows])
            yield Batch(torch.from_numpy(padded), lengths, [index for index, _ in rows])

    for index, ids in enumerate(stream):
        held.append((index, ids))
        if len(held) == window:
            yield from drain()
    yield from drain()


def fingerprint(sources: Sequence[str]) -> str:
    """A short id of a text: file names and contents, or a data set's name."""
    digest = sha256()
    for source in sources:
        digest.update(Path(source).name.encode())
        if Path(source).is_file():
            with open(source, "rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
    return digest.hexdigest()[:12]
