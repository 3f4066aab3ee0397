"""The documents of a text file (.txt, or .jsonl with a `text` field; each also .xz or .gz) or of a Hugging
Face data set, streamed.
"""

import gzip
import json
import lzma
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import IO, Any

from lexiscope.errors import TextError

END = "<|endoftext|>"
"""A line that separates the documents of a text file."""
BLOCK = 200_000
"""Characters of a text file that are read as one document at most: bounds memory where nothing separates
documents.
"""


def documents(source: str) -> Iterator[str]:
    """The documents of one source. Raises TextError: no such file, empty, binary, a line that is not JSON."""
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
    empty = True
    try:
        with opener(path, "rt", encoding="utf-8") as file:
            for document in _json_documents(file, source) if is_json else _text_documents(file):
                if "\0" in document:
                    raise TextError(f"{source} is not text: it holds NUL bytes.")
                if document.strip():
                    empty = False
                    yield document
    except UnicodeDecodeError as error:
        raise TextError(
            f"{source} is not UTF-8 text: byte {error.object[error.start]:#04x} at {error.start}."
        ) from error
    except (lzma.LZMAError, gzip.BadGzipFile, EOFError) as error:
        raise TextError(f"{source} is a damaged {path.suffix} file: {error}.") from error
    if empty:
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
