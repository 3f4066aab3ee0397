"""Documents of a plain text file, in pieces of bounded size."""

import io
from collections.abc import Iterator
from typing import IO

END = "<|endoftext|>"
"""A line that separates the documents of a text file."""
BLOCK = 200_000
"""Characters of a document at most: bounds memory where nothing separates documents."""
SEARCHED = 10_000
"""Characters before the end of a piece in which white space is looked for."""


def plain_documents(file: IO[bytes]) -> Iterator[str]:
    """The documents between END lines. One that is longer than BLOCK is cut at the first line end after it;
    lines longer than BLOCK are cut before white space.
    """
    lines: list[str] = []
    size = 0
    for line in _lines(io.TextIOWrapper(file, encoding="utf-8")):
        if line.strip() == END:
            yield from _unless_blank("".join(lines).strip("\n"))
            lines, size = [], 0
            continue
        lines.append(line)
        size += len(line)
        piece_of_a_line = len(line) >= BLOCK - SEARCHED and not line.endswith("\n")
        if size >= BLOCK or piece_of_a_line:
            yield from _unless_blank("".join(lines))
            lines, size = [], 0
    yield from _unless_blank("".join(lines).strip("\n"))


def _unless_blank(document: str) -> Iterator[str]:
    if document.strip():
        yield document


def _lines(file: IO[str]) -> Iterator[str]:
    """The lines of a file; of a line that is longer than BLOCK, its pieces."""
    rest = ""
    while True:
        read = file.readline(BLOCK - len(rest))
        line = rest + read
        rest = ""
        if not read:
            if line:
                yield line
            return
        if len(line) >= BLOCK and not line.endswith("\n"):
            line, rest = cut(line)
        yield line


def cut(text: str) -> tuple[str, str]:
    """A text of more than one character in two: before the last white space, so that the second part begins
    with it as words within a text do; at the end where SEARCHED characters hold none.
    """
    for place in range(len(text) - 1, max(0, len(text) - SEARCHED), -1):
        if text[place].isspace():
            return text[:place], text[place:]
    return text, ""


def pieces(document: str) -> Iterator[str]:
    """A document; one of more than two BLOCKs in pieces of at most one."""
    start = 0
    while len(document) > 2 * BLOCK and len(document) - start > BLOCK:
        piece, _ = cut(document[start : start + BLOCK])
        yield piece
        start += len(piece)
    yield document[start:]
