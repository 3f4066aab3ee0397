"""Keyset paging: a list is ordered by columns that end in a unique key, and the next page starts after the last row's values.

A cursor is those values as URL-safe base64 of JSON, with the build and a mark of the list it belongs to; it holds no secret
and needs no state, and one that belongs elsewhere is refused instead of skipping rows silently.
"""

import base64
import binascii
import hashlib
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from store.errors import BadCursor

Value = str | int | float


class Key(NamedTuple):
    """One column of an order."""

    column: sa.ColumnElement[Any]
    descending: bool = False

    def order(self) -> sa.ColumnElement[Any]:
        return self.column.desc() if self.descending else self.column.asc()

    def beyond(self, value: Value) -> sa.ColumnElement[bool]:
        return self.column < value if self.descending else self.column > value


def list_mark(*parts: object) -> str:
    """A short mark of one list: what was asked, without where in it the reader is."""
    return hashlib.sha256(json.dumps([str(part) for part in parts]).encode()).hexdigest()[:12]


def encode(*, build: str, mark: str, values: Sequence[Value]) -> str:
    text = json.dumps([build, mark, list(values)], separators=(",", ":"), ensure_ascii=False)
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decode(cursor: str, *, build: str, mark: str, n_values: int) -> list[Value]:
    """The values behind `cursor`. Raises BadCursor when it is broken, of another build, or of another list."""
    try:
        of_build, of_mark, values = json.loads(base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True))
        if not all(isinstance(value, str | int | float) for value in values) or len(values) != n_values:
            raise ValueError
    except (ValueError, TypeError, binascii.Error, RecursionError):
        raise BadCursor("this cursor cannot be read: start again from the first page, without `cursor`") from None
    if of_build != build:
        raise BadCursor(f"this cursor is of index build {of_build}, and {build} serves now: start again from the first page")
    if of_mark != mark:
        raise BadCursor("this cursor belongs to another search or other filters: start again from the first page")
    return list(values)


def after(keys: Sequence[Key], values: Sequence[Value]) -> sa.ColumnElement[bool]:
    """Rows strictly after `values` in the order of `keys`."""
    steps = []
    for depth, key in enumerate(keys):
        same = [other.column == value for other, value in zip(keys[:depth], values[:depth], strict=True)]
        steps.append(sa.and_(*same, key.beyond(values[depth])))
    return sa.or_(*steps)
