"""Lists of records as tables: iterators that also become data frames, and exports."""

from collections.abc import AsyncIterator, Iterator
from io import BytesIO
from os import PathLike
from pathlib import Path
from typing import Any, Generic, TypeVar

from lexiscope.records import FeatureRef, Record, Token

Item = TypeVar("Item", bound=Record)


class Rows(Iterator[Item], Generic[Item]):
    """Records, one after another; a page is asked for when it is needed. `to_pandas` and `to_polars` take
    those that are left.
    """

    def __init__(self, items: Iterator[Item]) -> None:
        self._items = items

    def __next__(self) -> Item:
        return next(self._items)

    def to_pandas(self) -> Any:
        """A pandas.DataFrame, tokens as they are shown. Raises ImportError without pandas."""
        return pandas_frame([row_of(item) for item in self])

    def to_polars(self) -> Any:
        """A polars.DataFrame, tokens as they are shown. Raises ImportError without polars."""
        return polars_frame([row_of(item) for item in self])


class AsyncRows(AsyncIterator[Item], Generic[Item]):
    """`Rows` of the asynchronous client; `to_pandas` and `to_polars` are awaited."""

    def __init__(self, items: AsyncIterator[Item]) -> None:
        self._items = items

    async def __anext__(self) -> Item:
        return await anext(self._items)

    async def to_pandas(self) -> Any:
        return pandas_frame([row_of(item) async for item in self])

    async def to_polars(self) -> Any:
        return polars_frame([row_of(item) async for item in self])


def row_of(item: Record) -> dict[str, Any]:
    """A record's fields in one row: a token as it is shown, with the id of the feature's name beside it."""
    row: dict[str, Any] = {}
    for name in type(item).model_fields:
        value = getattr(item, name)
        if isinstance(value, Token):
            row[name], row[f"{name}_id"] = value.shown, value.id
        elif isinstance(value, list) and isinstance(item, FeatureRef):
            row[name] = [token.shown for token in value]
        else:
            row[name] = value
    return row


def pandas_frame(rows: list[dict[str, Any]]) -> Any:
    import pandas

    return pandas.DataFrame(rows)


def polars_frame(rows: list[dict[str, Any]]) -> Any:
    import polars

    return polars.DataFrame(rows, infer_schema_length=None)


class Export:
    """A table of a dictionary as Parquet: `content` is the file."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def save(self, path: str | PathLike[str]) -> Path:
        """Write the file, and give its path."""
        Path(path).write_bytes(self.content)
        return Path(path)

    def to_pandas(self) -> Any:
        import pandas

        return pandas.read_parquet(BytesIO(self.content))

    def to_polars(self) -> Any:
        import polars

        return polars.read_parquet(BytesIO(self.content))

    def __repr__(self) -> str:
        return f"Export({len(self.content):,} bytes of Parquet)"
