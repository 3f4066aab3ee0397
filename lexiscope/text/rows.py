"""Rows of JSON files, tables and data sets: each with where it stands, for messages."""

import csv
import io
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from lexiscope.errors import TextError
from lexiscope.foreign_json import parse_json
from lexiscope.text.fields import DOCUMENT_FIELDS
from lexiscope.text.files import opened

JSON = (".jsonl", ".ndjson", ".json", ".jsonlines")
TABLES = (".parquet", ".csv", ".tsv")
DELIMITERS = (",", ";", "\t", "|")
LONGEST_CELL = 1 << 30
"""characters"""
ROWS = 1024
"""rows of a Parquet file that are in memory at once"""

Row = tuple[str, Any]
"""where it stands ('a.jsonl, line 3') and its value"""


def json_rows(path: Path) -> Iterator[Row]:
    """Of an array, its items; else of one JSON value a line, or of values one after another."""
    with opened(path) as file:
        while (start := file.peek(1)[:1]).isspace():
            file.read(1)
        if start == b"[":
            yield from _values(file, path, prefix="item")
            return
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                yield f"{path}, line {number}", parse_json(line)
            except UnicodeDecodeError:
                raise
            except ValueError as error:
                if number == 1 and line.lstrip().startswith(b"{"):
                    break  # an object on several lines
                reason = getattr(error, "msg", error)
                raise TextError(f"{path}, line {number}: not valid JSON ({reason}).") from error
        else:
            return
    with opened(path) as file:
        yield from _values(file, path, prefix="")


def _values(file: io.BufferedReader, path: Path, *, prefix: str) -> Iterator[Row]:
    import ijson

    number = 0
    try:
        for value in ijson.items(file, prefix, multiple_values=True, use_float=True):
            number += 1
            yield f"{path}, item {number}", value
    except ijson.JSONError as error:
        reason = str(error).strip().splitlines()[0]
        raise TextError(f"{path}, item {number + 1}: not valid JSON ({reason}).") from error


def table_rows(path: Path, suffix: str, field: str | None) -> Iterator[Row]:
    """Rows of a Parquet, CSV or TSV file: the column that is read, alone."""
    return _parquet_rows(path, field) if suffix == ".parquet" else _csv_rows(path, suffix, field or "text")


def _parquet_rows(path: Path, field: str | None) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            column = _column(path, file.schema_arrow.names, field)
            for batch in file.iter_batches(ROWS, columns=[column]):
                for value in batch.column(0).to_pylist():
                    number += 1
                    yield f"{path}, row {number}", {column: value}
    except (pa.ArrowException, OSError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise TextError(f"{path}, row {number + 1}: cannot be read as Parquet ({reason}).") from error


def _column(path: Path, columns: list[str], field: str | None) -> str:
    """The column that holds the documents, or the field of it that is named."""
    name = field or next((each for each in DOCUMENT_FIELDS if each in columns), DOCUMENT_FIELDS[0])
    column = name if name in columns else name.partition(".")[0]
    if column not in columns:
        raise _no_column(path, column, columns)
    return column


def _no_column(path: Path, name: str, columns: list[str]) -> TextError:
    return TextError(
        f"{path} has no column `{name}`; its columns are {', '.join(columns)}. Name one with --field."
    )


def _csv_rows(path: Path, suffix: str, field: str) -> Iterator[Row]:
    """Cells as they are written: 'NA' is text. A row with more cells than columns is refused, because which
    of them is the text cannot be known.
    """
    csv.field_size_limit(LONGEST_CELL)
    number = 0
    with opened(path) as file:
        lines = io.TextIOWrapper(file, encoding="utf-8", newline="")
        delimiter = _delimiter(path, suffix, field, head := lines.readline())
        rows = csv.reader(chain([head], lines), delimiter=delimiter, strict=True)
        try:
            columns = next(rows)
            place = columns.index(field)
            for row in rows:
                if not row:  # a blank line
                    continue
                number += 1
                if any(row[len(columns) :]):
                    raise TextError(
                        f"{path}, row {number} has {len(row)} cells under {len(columns)} columns: put cells"
                        f" that hold {delimiter!r} in double quotes."
                    )
                yield f"{path}, row {number}", {field: row[place] if place < len(row) else None}
        except csv.Error as error:
            raise TextError(
                f"{path}, row {number + 1}: not valid CSV ({error}). Double quotes within a quoted cell are"
                " written twice."
            ) from error


def _delimiter(path: Path, suffix: str, field: str, head: str) -> str:
    """The delimiter by which the first line of a table names the field."""
    if not head.strip():
        raise TextError(f"{path} is empty: it holds no text.")
    heads = {
        each: next(csv.reader([head], delimiter=each), [])
        for each in (("\t",) if suffix == ".tsv" else DELIMITERS)
    }
    for delimiter, columns in heads.items():
        if field in columns:
            return delimiter
    raise _no_column(path, field, max(heads.values(), key=len))


def hub_rows(name: str) -> Iterator[Row]:
    """Rows of the training split of a data set on the hub, streamed; `owner/name:configuration`."""
    from datasets import load_dataset

    owner_name, _, configuration = name.partition(":")
    try:
        rows = load_dataset(owner_name, name=configuration or None, split="train", streaming=True)
        for number, row in enumerate(rows, 1):
            yield f"{name}, row {number}", row
    except Exception as error:  # datasets raises anything from ConnectionError to KeyError
        if isinstance(error, TextError | GeneratorExit):
            raise
        reason = str(error).strip().partition("\n")[0]
        raise TextError(
            f"There is no file {name}, and no data set of that name can be read: {type(error).__name__}:"
            f" {reason}"
        ) from error
