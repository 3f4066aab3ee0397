"""Checked access to the fields of JSON objects. A field that is missing or of another kind raises
ImportRefused; `where` names the file and the feature.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np

from indexer.exchange.errors import ImportRefused

MAX_INDEX = 2**31 - 1

JsonObject = dict[str, Any]


def required(row: JsonObject, name: str, where: str) -> Any:
    if row.get(name) is None:
        raise ImportRefused(f"{where}: '{name}' is missing.")
    return row[name]


def as_list(row: JsonObject, name: str, where: str) -> list[Any]:
    value = required(row, name, where)
    if not isinstance(value, list):
        raise ImportRefused(f"{where}: '{name}' is no list.")
    return value


def as_number(value: Any, name: str, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ImportRefused(f"{where}: '{name}' holds {value!r}, which is no number.")
    return float(value)


def as_count(value: Any, name: str, where: str) -> int:
    number = as_number(value, name, where)
    if number < 0 or number != int(number):
        raise ImportRefused(f"{where}: '{name}' is {value!r}; it must be a whole number.")
    return int(number)


def as_numbers(row: JsonObject, name: str, where: str) -> np.ndarray:
    """[n] a list of numbers."""
    values = as_list(row, name, where)
    try:
        array = np.array(values)
    except ValueError:  # it holds lists of different lengths
        array = np.empty((0, 0))
    if array.ndim != 1 or array.dtype.kind not in "iuf" or not np.isfinite(array).all():
        for value in values:
            as_number(value, name, where)
    return array


def feature_index(row: Any, name: str, path: Path) -> int:
    index = row.get(name) if isinstance(row, dict) else None
    if isinstance(index, bool) or not str(index).isdecimal() or int(str(index)) > MAX_INDEX:
        raise ImportRefused(f"{path}: a feature's '{name}' is {index!r}; it must be a number from 0.")
    return int(str(index))
