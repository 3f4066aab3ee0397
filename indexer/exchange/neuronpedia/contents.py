"""What is kept of SAEDashboard's and Neuronpedia's files: plain columns of what fires, each text once,
nothing of the zeros (99 % of the values in such files). A number that is none, or a field that is missing:
ExchangeError, naming file and feature.
"""

import math
from array import array
from collections import Counter
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from indexer.exchange.export_folder import UNCHANGED, ExchangeError


class Origin(NamedTuple):
    """What a file says it is of."""

    model: str
    layer: int
    set_name: str


class Run(NamedTuple):
    """What the contexts were picked from; zeros where the files do not say."""

    n_prompts: int = 0
    n_tokens_in_prompt: int = 0
    dataset: str = ""


class Feature(NamedTuple):
    """A feature without its contexts. Tokens are numbers of `Dashboards.strings`."""

    file: str
    density: float
    maximum: float | None
    positive: list[tuple[int, float]]
    negative: list[tuple[int, float]]
    bars: list[tuple[float, int]]
    """(activation at a bar's middle, firings in it)"""
    vector: "array[float] | None"


class Contexts:
    """Columns of contexts, and the texts they stand in, each kept once."""

    def __init__(self) -> None:
        self.feature, self.text, self.place, self.top = array("i"), array("q"), array("i"), array("b")
        self.value = array("f")
        self.lengths, self.positions, self.values = array("i"), array("i"), array("f")
        """how many places of each context fire, which, and how strongly"""
        self.tokens, self.text_lengths = array("i"), array("i")
        self._texts: dict[bytes, int] = {}
        self.silent = 0
        """contexts in which their feature does not fire at all"""

    def text_of(self, tokens: list[int]) -> int:
        packed = array("i", tokens)
        key = blake2b(packed.tobytes(), digest_size=16).digest()
        if key not in self._texts:
            self._texts[key] = len(self.text_lengths)
            self.tokens.extend(packed)
            self.text_lengths.append(len(packed))
        return self._texts[key]


@dataclass
class Dashboards:
    """Everything read from a folder."""

    kind: str
    """what files these are, in words"""
    run: Run = field(default_factory=Run)
    origin: Origin | None = None
    features: dict[int, Feature] = field(default_factory=dict)
    skipped: set[int] = field(default_factory=set)
    strings: dict[str, int] = field(default_factory=dict)
    uses: Counter[int] = field(default_factory=Counter)
    """how often each string stands in a text"""
    contexts: Contexts = field(default_factory=Contexts)
    n_files: int = 0

    def number(self, string: str) -> int:
        return self.strings.setdefault(string, len(self.strings))

    def is_of(self, origin: Origin, path: Path) -> None:
        """Raises ExchangeError where an earlier file was of another dictionary."""
        one = self.origin or origin
        if origin != one:
            raise ExchangeError(
                f"{path} is of another dictionary: {origin.model}, layer {origin.layer}, set {origin.set_name}; "
                f"the files before it are of {one.model}, layer {one.layer}, set {one.set_name}.",
                kept=UNCHANGED,
            )
        self.origin = origin


def parsed_origin(path: Path, model: Any, layer: Any, set_name: Any, suffix: Any = None) -> Origin:
    if not str(layer).isdecimal():
        raise ExchangeError(f"{path}: layer is {layer!r}; it must be a number.", kept=UNCHANGED)
    return Origin(str(model), int(layer), str(set_name) + (f"__{suffix}" if suffix else ""))


def add_feature(
    found: Dashboards, index: int, row: dict[str, Any], path: Path, where: str, *, maximum: float | None
) -> None:
    if index in found.features:
        raise ExchangeError(
            f"{where}: the feature is in {found.features[index].file} already.", kept=UNCHANGED
        )
    vector = numbers(row, "vector", where) if row.get("vector") else None
    bars = zip(
        numbers(row, "freq_hist_data_bar_values", where) if row.get("freq_hist_data_bar_values") else [],
        numbers(row, "freq_hist_data_bar_heights", where) if row.get("freq_hist_data_bar_heights") else [],
        strict=False,
    )
    density = number(needed(row, "frac_nonzero", where), "frac_nonzero", where)
    if not 0 <= density <= 1:
        raise ExchangeError(
            f"{where}: frac_nonzero is {density}; it is a share, between 0 and 1.", kept=UNCHANGED
        )
    found.features[index] = Feature(
        file=path.name,
        density=density,
        maximum=maximum,
        positive=_logits(found, row, "pos", where),
        negative=_logits(found, row, "neg", where),
        bars=[(float(value), round(height)) for value, height in bars if height > 0],
        vector=None if vector is None else array("f", vector.tolist()),
    )


def _logits(found: Dashboards, row: dict[str, Any], sign: str, where: str) -> list[tuple[int, float]]:
    strings, values = listed(row, f"{sign}_str", where), numbers(row, f"{sign}_values", where)
    if len(strings) != len(values):
        raise ExchangeError(
            f"{where}: {sign}_str has {len(strings)} tokens, {sign}_values {len(values)} numbers.",
            kept=UNCHANGED,
        )
    return [(found.number(str(string)), float(value)) for string, value in zip(strings, values, strict=True)]


def add_context(found: Dashboards, index: int, row: dict[str, Any], where: str, *, low: str, at: str) -> None:
    strings, values = listed(row, "tokens", where), numbers(row, "values", where)
    if len(strings) != len(values):
        raise ExchangeError(
            f"{where}: a context has {len(strings)} tokens and {len(values)} values.", kept=UNCHANGED
        )
    active = np.flatnonzero(values > 0)
    contexts = found.contexts
    if not len(active):
        contexts.silent += 1
        return
    place = row.get(at)
    if not (isinstance(place, int) and 0 <= place < len(values) and values[place] > 0):
        place = int(values.argmax())  # an interval that begins at 0 holds places where nothing fires
    tokens = [found.number(str(string)) for string in strings]
    known = len(contexts.text_lengths)
    text = contexts.text_of(tokens)
    if text == known:
        found.uses.update(tokens)
    contexts.feature.append(index)
    contexts.text.append(text)
    contexts.place.append(place)
    contexts.top.append(row.get(low) == -1)
    contexts.value.append(values[place])
    contexts.lengths.append(len(active))
    contexts.positions.extend(active.tolist())
    contexts.values.extend(values[active].tolist())


def needed(row: dict[str, Any], name: str, where: str) -> Any:
    if row.get(name) is None:
        raise ExchangeError(f"{where}: '{name}' is missing.", kept=UNCHANGED)
    return row[name]


def listed(row: dict[str, Any], name: str, where: str) -> list[Any]:
    found = needed(row, name, where)
    if not isinstance(found, list):
        raise ExchangeError(f"{where}: '{name}' is no list.", kept=UNCHANGED)
    return found


def feature_index(row: Any, name: str, path: Path) -> int:
    index = row.get(name) if isinstance(row, dict) else None
    if isinstance(index, bool) or not str(index).isdecimal() or int(str(index)) > 2**31 - 1:
        raise ExchangeError(
            f"{path}: a feature's '{name}' is {index!r}; it must be a number from 0.", kept=UNCHANGED
        )
    return int(str(index))


def whole(value: Any, name: str, where: str) -> int:
    found = number(value, name, where)
    if found < 0 or found != int(found):
        raise ExchangeError(f"{where}: '{name}' is {value!r}; it must be a whole number.", kept=UNCHANGED)
    return int(found)


def number(value: Any, name: str, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ExchangeError(f"{where}: '{name}' holds {value!r}, which is no number.", kept=UNCHANGED)
    return float(value)


def numbers(row: dict[str, Any], name: str, where: str) -> np.ndarray:
    try:
        found = np.array(listed(row, name, where))
    except ValueError:  # lists of different lengths in it
        found = np.empty((0, 0))
    if found.ndim != 1 or found.dtype.kind not in "iuf" or not np.isfinite(found).all():
        for item in row[name]:
            number(item, name, where)
    return found
