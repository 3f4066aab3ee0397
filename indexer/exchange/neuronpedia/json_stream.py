"""One JSON object with a long list in it, read so that the list is never held whole.

A batch of SAEDashboard is `{"model_id": …, "features": [ … ]}`, 60 to 90 kB a feature and up to thousands of
features.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from indexer.exchange.export_folder import UNCHANGED, ExchangeError

CHUNK = 1 << 20
"""Characters read at once."""
AFTER_A_VALUE = (",", ":", "]", "}", " ", "\t", "\r", "\n")
"""Anything else may be the rest of a number that a block cut in two."""


class ListedObject:
    """Iterating gives the items of the list `name`, decoded one after another; `rest` fills with the object's
    other fields.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name
        self.rest: dict[str, Any] = {}
        self._decoder = json.JSONDecoder()
        self._text, self._at, self._ended = "", 0, False

    def __iter__(self) -> Iterator[dict[str, Any]]:
        number = 0
        try:
            with open(self.path, encoding="utf-8") as file:
                self._expect(file, "{")
                while self._next(file) != "}":
                    key = self._value(file)
                    self._expect(file, ":")
                    if key != self.name:
                        self.rest[key] = self._value(file)
                    else:
                        self._expect(file, "[")
                        while self._next(file) != "]":
                            yield self._value(file)
                            number += 1
                            if self._next(file) == ",":
                                self._at += 1
                        self._at += 1
                    if self._next(file) == ",":
                        self._at += 1
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            what = f"after {number} whole items" if number else "at its beginning"
            raise ExchangeError(
                f"{self.path} is no whole JSON file: it breaks off {what} ({error}).", kept=UNCHANGED
            ) from error

    def _more(self, file: IO[str]) -> None:
        rest = self._text[self._at :]
        block = file.read(max(CHUNK, len(rest)))
        self._text, self._at, self._ended = rest + block, 0, not block

    def _next(self, file: IO[str]) -> str:
        """The next character that is no white space, left where it is."""
        while True:
            while self._at < len(self._text) and self._text[self._at].isspace():
                self._at += 1
            if self._at < len(self._text):
                return self._text[self._at]
            self._more(file)
            if self._ended:
                raise json.JSONDecodeError("the file ends", "", 0)

    def _expect(self, file: IO[str], char: str) -> None:
        if self._next(file) != char:
            raise json.JSONDecodeError(f"'{char}' expected", "", 0)
        self._at += 1

    def _value(self, file: IO[str]) -> Any:
        self._next(file)
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
                if self._ended or self._text[end : end + 1] in AFTER_A_VALUE:
                    self._at = end
                    return value
            except json.JSONDecodeError:
                if self._ended:
                    raise
            self._more(file)
