"""From arrays to rows of a table of the store: types, lists and absent values."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from torch import Tensor

from store import arrow_schema


def rows(table: str, columns: Mapping[str, Any]) -> pa.Table:
    """Rows of a table of `store.schema` from a column each: a list, or an array or tensor [n] or [n, m] (n
    lists). In a column that may be null, NaN or a negative whole number is absent, and a column that may be
    null need not be given. Raises KeyError for a column that the table lacks or that must be given.
    """
    schema = arrow_schema(table)
    if unknown := set(columns) - set(schema.names):
        raise KeyError(f"{table} has no column {', '.join(sorted(unknown))}")
    n = len(next(iter(columns.values())))
    arrays = [
        pa.nulls(n, field.type) if field.nullable and field.name not in columns else _array(columns, field)
        for field in schema
    ]
    return pa.table(arrays, schema=schema)


def filled(table: str, columns: Mapping[str, Any], n: int) -> pa.Table:
    """n rows of a table as `rows` makes them, where the columns not given are NULL, empty or zero."""
    zeros = {
        field.name: [_zero(field.type)] * n
        for field in arrow_schema(table)
        if not field.nullable and field.name not in columns
    }
    return rows(table, {**columns, **zeros})


def _array(columns: Mapping[str, Any], field: pa.Field) -> pa.Array:
    values = columns[field.name]
    if isinstance(values, Tensor):
        values = values.numpy()
    if isinstance(values, np.ndarray) and values.ndim == 2:
        values = _lists(values)
    elif isinstance(values, np.ndarray) and field.nullable:
        absent = np.isnan(values) if values.dtype.kind == "f" else values < 0
        values = pa.array(values, mask=absent)
    if isinstance(values, pa.Array):
        return values.cast(field.type)
    if not len(values):
        return pa.array([], field.type)
    return pa.array(values).cast(field.type)


def _lists(matrix: np.ndarray) -> pa.ListArray:
    """[n, m] as n lists."""
    n, m = matrix.shape
    offsets = np.arange(0, n * m + 1, max(m, 1), dtype=np.int32)
    return pa.ListArray.from_arrays(offsets, np.ascontiguousarray(matrix).reshape(-1))


def _zero(kind: pa.DataType) -> Any:
    return [] if pa.types.is_list(kind) else "" if pa.types.is_string(kind) else 0
