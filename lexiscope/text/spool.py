"""The passages of a text, kept as they are made: a run that needs them again does not tokenise again."""

import tempfile
import threading
from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lexiscope.language_model import LanguageModel
from lexiscope.text.report import TextReport
from lexiscope.text.request import Text

IN_MEMORY = 4 << 20
"""bytes before a spool goes to a temporary file"""
LARGEST = 256 << 20
"""bytes kept; the passages after these are made again for each iteration"""
TEXTS = 4
"""texts of a model that are kept"""


class Sourced(NamedTuple):
    """A passage and where it is from."""

    source: int
    """the number of its source in the text, from 0"""
    ids: np.ndarray


Read = Callable[[TextReport], Iterator[Sourced]]


class Spool:
    """Iterates over the passages that `read` gives; those already made are read back. An error that `read`
    raises is raised again where it stood.
    """

    def __init__(self, read: Read, *, largest: int = LARGEST) -> None:
        self.report = TextReport()
        self._read = read
        self._fresh: Iterator[Sourced] | None = read(self.report)
        self._file: Any = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY)  # noqa: SIM115 (closed with the spool)
        self._ends, self._sources = array("q", [0]), array("q")
        self._largest = largest
        self._error: Exception | None = None
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[Sourced]:
        number = 0
        while (passage := self._kept(number)) is not None:
            yield passage
            number += 1
        yield from self._rest(number)

    def _kept(self, number: int) -> Sourced | None:
        """A passage by number, made and kept where that is still to be done; None after the last that is."""
        with self._lock:
            if number < len(self._ends) - 1:
                return self._stored(number)
            if self._error is not None:
                raise self._error
            if self._fresh is None or self._ends[-1] >= self._largest:
                return None
            try:
                passage = next(self._fresh, None)
            except Exception as error:
                self._error = error
                raise
            if passage is None:
                self._fresh = None
                return None
            self._file.seek(self._ends[-1])
            self._file.write(passage.ids.tobytes())
            self._sources.append(passage.source)
            self._ends.append(self._ends[-1] + passage.ids.nbytes)
            return passage

    def _stored(self, number: int) -> Sourced:
        start, end = self._ends[number : number + 2]
        self._file.seek(start)
        ids = np.frombuffer(self._file.read(end - start), dtype=np.int32).copy()
        return Sourced(self._sources[number], ids)

    def _rest(self, number: int) -> Iterator[Sourced]:
        """What comes after the passages that are kept."""
        if self._ends[-1] < self._largest:
            return iter(())
        with self._lock:
            fresh, self._fresh = self._fresh, None
        return islice(self._read(TextReport()), number, None) if fresh is None else fresh


def spooled(model: LanguageModel, text: Text, length: int, read: Read) -> Spool:
    """The spool of a text for a model; a new one where a file has changed or an earlier reading failed."""
    files = [Path(source) for source in text.sources]
    state = [(file.stat().st_mtime_ns, file.stat().st_size) if file.is_file() else None for file in files]
    key = (tuple(map(str, files)), text.field, text.chat, length, tuple(state))
    kept: OrderedDict[tuple[Any, ...], Spool] = model.kept.setdefault("passages", OrderedDict())
    if key not in kept or kept[key]._error is not None:
        kept[key] = Spool(read)
    kept.move_to_end(key)
    while len(kept) > TEXTS:
        kept.popitem(last=False)
    return kept[key]
