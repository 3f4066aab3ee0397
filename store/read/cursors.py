"""Keyset paging: a list is ordered by columns that end in a unique key, and the next page starts after the
last row's values.

A cursor is those values as URL-safe base64 of JSON, with the build and a mark of the list it belongs to; it
holds no secret and needs no state, and one that belongs elsewhere is refused instead of skipping rows
silently.
"""

import base64
import binascii
import hashlib
import json
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from store.errors import BadCursor

Value = int | float


class SortKey(NamedTuple):
    """One column of an order; every column that lists are sorted by is a number."""

    column: sa.ColumnElement[Any]
    descending: bool = False

    @property
    def kind(self) -> type[Value]:
        return float if isinstance(self.column.type, sa.REAL) else int

    def order(self) -> sa.ColumnElement[Any]:
        return self.column.desc() if self.descending else self.column.asc()

    def beyond(self, value: Value) -> sa.ColumnElement[bool]:
        return self.column < value if self.descending else self.column > value

    def not_before(self, value: Value) -> sa.ColumnElement[bool]:
        return self.column <= value if self.descending else self.column >= value


def list_mark(*parts: object) -> str:
    """A short mark of one list: what was asked, without where in it the reader is."""
    return hashlib.sha256(json.dumps([str(part) for part in parts]).encode()).hexdigest()[:12]


def encode(*, build: str, mark: str, values: Sequence[Value]) -> str:
    text = json.dumps([build, mark, list(values)], separators=(",", ":"), ensure_ascii=False)
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decode(cursor: str, *, build: str, mark: str, kinds: Sequence[type[Value]]) -> list[Value]:
    """The values behind `cursor`. Raises BadCursor when it is broken, of another build, or of another list."""
    try:
        of_build, of_mark, values = json.loads(
            base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        )
        if not all(_fits(value, kind) for value, kind in zip(values, kinds, strict=True)):
            raise ValueError
    except (ValueError, TypeError, binascii.Error, RecursionError):
        raise BadCursor(
            "this cursor cannot be read: start again from the first page, without `cursor`"
        ) from None
    if of_build != build:
        raise BadCursor(
            f"this cursor is of index build {of_build}, and {build} serves now: start again from the first page"
        )
    if of_mark != mark:
        raise BadCursor(
            "this cursor belongs to another search or other filters: start again from the first page"
        )
    return list(values)


def _fits(value: object, kind: type[Value]) -> bool:
    """A finite number of the column's kind and size: what a database will take."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return False
    return isinstance(value, int) and abs(value) < 2**31 if kind is int else abs(value) < 1e38


def after(keys: Sequence[SortKey], values: Sequence[Value]) -> sa.ColumnElement[bool]:
    """Rows strictly after `values` in the order of `keys`. The first key's bound is said apart: an index can
    begin there.
    """
    steps = []
    for depth, key in enumerate(keys):
        same = [other.column == value for other, value in zip(keys[:depth], values[:depth], strict=True)]
        steps.append(sa.and_(*same, key.beyond(values[depth])))
    return sa.and_(keys[0].not_before(values[0]), sa.or_(*steps))
