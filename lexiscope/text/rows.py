"""Rows of JSON files, tables and data sets: each with where it stands, for messages."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lexiscope.errors import TextError
from lexiscope.text.files import format_suffix, opened

JSON = (".jsonl", ".ndjson", ".json", ".jsonlines")
TABLES = (".parquet", ".csv", ".tsv")
DELIMITERS = (",", ";", "\t", "|")

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
                yield f"{path}, line {number}", json.loads(line.decode())
            except json.JSONDecodeError as error:
                if number == 1 and format_suffix(path) == ".json":
                    break  # an object on several lines
                raise TextError(f"{path}, line {number}: not valid JSON ({error.msg}).") from error
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
    """Rows of a Parquet, CSV or TSV file, read by the `datasets` library."""
    options: dict[str, Any] = {}
    if suffix != ".parquet":
        field = field or "text"
        delimiter = _delimiter(path, suffix, field)
        # as they are written: no type is guessed, and 'NA' is text
        options = {"sep": delimiter, "usecols": [field], "converters": {field: str}, "keep_default_na": False}
    kind = "parquet" if suffix == ".parquet" else "csv"
    return _data_set_rows(kind, str(path), data_files=str(path.resolve()), **options)


def _delimiter(path: Path, suffix: str, field: str) -> str:
    """The delimiter by which the head of a table names the field."""
    with opened(path) as file:
        head = io.TextIOWrapper(file, encoding="utf-8").readline()
    heads = {
        each: next(csv.reader([head], delimiter=each), [])
        for each in (("\t",) if suffix == ".tsv" else DELIMITERS)
    }
    for delimiter, columns in heads.items():
        if field in columns:
            return delimiter
    columns = max(heads.values(), key=len)
    raise TextError(
        f"{path} has no column `{field}`; its columns are {', '.join(columns)}. Name one with --field."
    )


def hub_rows(name: str) -> Iterator[Row]:
    """Rows of the training split of a data set on the hub, streamed; `owner/name:configuration`."""
    name, _, configuration = name.partition(":")
    return _data_set_rows(name, name, name=configuration or None)


def _data_set_rows(kind: str, shown: str, **options: Any) -> Iterator[Row]:
    from datasets import load_dataset

    try:
        for number, row in enumerate(load_dataset(kind, split="train", streaming=True, **options), 1):
            yield f"{shown}, row {number}", row
    except Exception as error:  # datasets raises anything from ConnectionError to KeyError
        if isinstance(error, TextError | GeneratorExit):
            raise
        reason = str(error).strip().partition("\n")[0]
        raise TextError(f"{shown} cannot be read as a data set: {type(error).__name__}: {reason}") from error
