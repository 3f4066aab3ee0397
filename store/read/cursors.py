"""Keyset paging: a list is ordered by columns that end in a unique key, and the next page starts after the
last row's values.

A cursor is those values as URL-safe base64 of JSON, with the build, a mark of the list it belongs to, the
place in the list and the direction. It holds no secret and needs no state. A cursor of another list is
refused, because it would skip rows silently.
"""

import base64
import binascii
import hashlib
import json
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from lexiscope.foreign_json import parse_json
from store.errors import BadCursor

Value = int | float


class SortKey(NamedTuple):
    """One column of an order. All columns that lists are sorted by are numbers."""

    column: sa.ColumnElement[Any]
    descending: bool = False

    @property
    def kind(self) -> type[Value]:
        return float if isinstance(self.column.type, sa.REAL) else int

    def reversed(self) -> "SortKey":
        return self._replace(descending=not self.descending)

    def order(self) -> sa.ColumnElement[Any]:
        return self.column.desc() if self.descending else self.column.asc()

    def beyond(self, value: Value) -> sa.ColumnElement[bool]:
        return self.column < value if self.descending else self.column > value

    def not_before(self, value: Value) -> sa.ColumnElement[bool]:
        return self.column <= value if self.descending else self.column >= value


def list_mark(*parts: object) -> str:
    """A short mark of one list: the query and its filters, without the page."""
    return hashlib.sha256(json.dumps([str(part) for part in parts]).encode()).hexdigest()[:12]


class Cursor(NamedTuple):
    """Where a page starts: after the row of `values`, or before it where `back`."""

    values: list[Value]
    place: int = 0
    """rows of the list up to that row; rows before it where `back`"""
    back: bool = False


def encode(cursor: Cursor, *, build: str, mark: str) -> str:
    parts = [build, mark, cursor.values, cursor.place, cursor.back]
    text = json.dumps(parts, separators=(",", ":"), ensure_ascii=False)
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decode(cursor: str, *, build: str, mark: str, kinds: Sequence[type[Value]]) -> Cursor:
    """The contents of `cursor`. Raises BadCursor where it is broken, of another build, or of another list."""
    try:
        of_build, of_mark, values, place, back = parse_json(
            base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        )
        if not all(_fits(value, kind) for value, kind in zip(values, kinds, strict=True)):
            raise ValueError
        if not _fits(place, int) or place < 0 or not isinstance(back, bool):
            raise ValueError
    except (ValueError, TypeError, binascii.Error):
        raise BadCursor(
            "this cursor cannot be read: start again from the first page, without `cursor`"
        ) from None
    if of_build != build:
        raise BadCursor(
            f"this cursor is of another index build than {build}, which is served now: start again from the "
            "first page"
        )
    if of_mark != mark:
        raise BadCursor(
            "this cursor belongs to another search or other filters: start again from the first page"
        )
    return Cursor(list(values), place, back)


def _fits(value: object, kind: type[Value]) -> bool:
    """Whether it is a finite number that a column of this kind can hold."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return False
    return isinstance(value, int) and abs(value) < 2**31 if kind is int else abs(value) < 1e38


def after(keys: Sequence[SortKey], values: Sequence[Value]) -> sa.ColumnElement[bool]:
    """Rows strictly after `values` in the order of `keys`. The bound on the first key is repeated as a
    condition of its own, so that an index can be used.
    """
    steps = []
    for depth, key in enumerate(keys):
        same = [other.column == value for other, value in zip(keys[:depth], values[:depth], strict=True)]
        steps.append(sa.and_(*same, key.beyond(values[depth])))
    return sa.and_(keys[0].not_before(values[0]), sa.or_(*steps))
