"""Open a text file: compression and encoding are told by its first bytes and its name."""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lexiscope.errors import TextError

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
COMPRESSED = {".gz": b"\x1f\x8b", ".xz": b"\xfd7zXZ\x00", ".bz2": b"BZh", ".zst": b"\x28\xb5\x2f\xfd"}
"""How the files of each compression begin."""
OTHER_FORMATS = {
    b"PK\x03\x04": "a ZIP archive; unpack it first",
    b"\xff\xfe\x00\x00": "UTF-32 text; convert it to UTF-8, for example by iconv -f UTF-32 -t UTF-8",
    b"\xff\xfe": "UTF-16 text; convert it to UTF-8, for example by iconv -f UTF-16 -t UTF-8",
    b"\xfe\xff": "UTF-16 text; convert it to UTF-8, for example by iconv -f UTF-16 -t UTF-8",
    b"%PDF": "a PDF file; give its text",
}
SHOWN = 20
"""bytes before one that is no UTF-8, in a message"""
DAMAGED = (lzma.LZMAError, gzip.BadGzipFile, zlib.error, EOFError)


def compression(path: Path) -> str:
    """'.gz', '.xz', '.bz2', '.zst' or ''."""
    if path.suffix.lower() in COMPRESSED:
        return path.suffix.lower()
    with open(path, "rb") as file:
        start = file.read(8)
    return next((name for name, magic in COMPRESSED.items() if start.startswith(magic)), "")


def format_suffix(path: Path) -> str:
    """The suffix in lower case, that of a compression left out: '.jsonl' for 'a.JSONL.gz'."""
    name = path.name.lower()
    for suffix in COMPRESSED:
        name = name.removesuffix(suffix)
    return Path(name).suffix


@contextmanager
def opened(path: Path) -> Iterator[io.BufferedReader]:
    """The file's bytes, decompressed, without a byte order mark. The stream has `peek`.

    Raises TextError: damaged, no UTF-8 (also while it is read), or a format that is not read.
    """
    kind = compression(path)
    try:
        with _decompressed(path, kind) as file:
            start = file.peek(8)[:8]
            for magic, words in OTHER_FORMATS.items():
                if start.startswith(magic):
                    raise TextError(f"{path} is {words}.")
            if start.startswith(BYTE_ORDER_MARK):
                file.read(len(BYTE_ORDER_MARK))
            yield file
    except UnicodeDecodeError as error:
        before = error.object[max(0, error.start - SHOWN) : error.start].decode(errors="replace")
        raise TextError(
            f"{path} is not UTF-8 text: byte {error.object[error.start]:#04x} after {before!r}. If it is"
            " Latin-1, for example, convert it by iconv -f LATIN1 -t UTF-8."
        ) from error
    except DAMAGED as error:
        raise TextError(f"{path} is a damaged {kind} file: {error}.") from error
    except OSError as error:
        if kind in (".bz2", ".zst"):  # the only sign of damage that these libraries give
            raise TextError(f"{path} is a damaged {kind} file: {error}.") from error
        raise TextError(f"{path} cannot be read: {error.strerror or error}.") from error


def _decompressed(path: Path, kind: str) -> Any:
    if kind == ".zst":
        import pyarrow

        stream = pyarrow.CompressedInputStream(pyarrow.OSFile(str(path)), "zstd")
        return io.BufferedReader(stream)
    openers: dict[str, Any] = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}
    return openers.get(kind, open)(path, "rb")
