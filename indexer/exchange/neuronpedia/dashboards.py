"""What is kept of SAEDashboard's and Neuronpedia's files: plain columns of what fires, each text once,
nothing of the zeros (99 % of the values in such files).
"""

from array import array
from collections import Counter
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from indexer.exchange.errors import ImportRefused
from indexer.exchange.neuronpedia.fields import JsonObject, as_list, as_number, as_numbers, required


class DashboardOrigin(NamedTuple):
    """The dictionary that a file describes, in the file's own words."""

    model: str
    layer: int
    set_name: str


class DashboardRun(NamedTuple):
    """The text that the contexts were picked from; zeros where the files do not say."""

    n_prompts: int = 0
    n_tokens_in_prompt: int = 0
    dataset: str = ""

    @property
    def n_tokens(self) -> int:
        return self.n_prompts * self.n_tokens_in_prompt


class DashboardFeature(NamedTuple):
    """A feature without its contexts. Tokens are numbers of `Dashboards.strings`."""

    file: str
    density: float
    maximum: float | None
    positive: list[tuple[int, float]]
    """(token, logit), as the file orders them"""
    negative: list[tuple[int, float]]
    bars: list[tuple[float, int]]
    """(activation at a bar's middle, firings in it)"""
    vector: "array[float] | None"
    """its decoder row"""


class DashboardContexts:
    """Columns of contexts, and the texts they stand in, each kept once."""

    def __init__(self) -> None:
        self.feature, self.text, self.place, self.top = array("i"), array("q"), array("i"), array("b")
        self.value = array("f")
        self.lengths, self.positions, self.values = array("i"), array("i"), array("f")
        """how many positions of each context fire, which, and how strongly"""
        self.tokens, self.text_lengths = array("i"), array("i")
        self._texts: dict[bytes, int] = {}
        self.silent = 0
        """contexts in which their feature does not fire"""

    def text_number(self, tokens: list[int]) -> int:
        """The number of a text, which is added where it is new."""
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
    run: DashboardRun = field(default_factory=DashboardRun)
    origin: DashboardOrigin | None = None
    features: dict[int, DashboardFeature] = field(default_factory=dict)
    skipped: set[int] = field(default_factory=set)
    """features that SAEDashboard left out"""
    strings: dict[str, int] = field(default_factory=dict)
    """number of each string that stands for a token"""
    uses: Counter[int] = field(default_factory=Counter)
    """how often each string stands in a text"""
    contexts: DashboardContexts = field(default_factory=DashboardContexts)
    n_files: int = 0

    def number(self, string: str) -> int:
        return self.strings.setdefault(string, len(self.strings))

    def set_origin(self, origin: DashboardOrigin, path: Path) -> None:
        """Raises ImportRefused where an earlier file describes another dictionary."""
        first = self.origin or origin
        if origin != first:
            raise ImportRefused(
                f"{path} is of another dictionary: {origin.model}, layer {origin.layer}, set "
                f"{origin.set_name}; the files before it are of {first.model}, layer {first.layer}, set "
                f"{first.set_name}."
            )
        self.origin = origin

    def add_feature(self, index: int, row: JsonObject, path: Path, *, maximum: float | None) -> None:
        where = f"{path}, feature {index}"
        if index in self.features:
            raise ImportRefused(f"{where}: the feature is in {self.features[index].file} already.")
        density = as_number(required(row, "frac_nonzero", where), "frac_nonzero", where)
        if not 0 <= density <= 1:
            raise ImportRefused(f"{where}: frac_nonzero is {density}; it is a share, between 0 and 1.")
        middles, heights = (
            as_numbers(row, f"freq_hist_data_bar_{name}", where)
            if row.get(f"freq_hist_data_bar_{name}")
            else ()
            for name in ("values", "heights")
        )
        bars = zip(middles, heights, strict=False)
        vector = as_numbers(row, "vector", where).tolist() if row.get("vector") else None
        self.features[index] = DashboardFeature(
            file=path.name,
            density=density,
            maximum=maximum,
            positive=self._logits(row, "pos", where),
            negative=self._logits(row, "neg", where),
            bars=[(float(middle), round(height)) for middle, height in bars if round(height) > 0],
            vector=None if vector is None else array("f", vector),
        )

    def _logits(self, row: JsonObject, sign: str, where: str) -> list[tuple[int, float]]:
        strings, values = as_list(row, f"{sign}_str", where), as_numbers(row, f"{sign}_values", where)
        if len(strings) != len(values):
            raise ImportRefused(
                f"{where}: {sign}_str has {len(strings)} tokens, {sign}_values {len(values)} numbers."
            )
        return [(self.number(str(token)), float(value)) for token, value in zip(strings, values, strict=True)]

    def add_context(self, index: int, row: JsonObject, where: str, *, low: str, at: str) -> None:
        """`low` and `at` are the names of the fields for the interval's lower end, −1 for a top context, and
        for the position that the context was picked for.
        """
        strings, values = as_list(row, "tokens", where), as_numbers(row, "values", where)
        if len(strings) != len(values):
            raise ImportRefused(f"{where}: a context has {len(strings)} tokens and {len(values)} values.")
        active = np.flatnonzero(values > 0)
        contexts = self.contexts
        if not len(active):
            contexts.silent += 1
            return
        tokens = [self.number(str(string)) for string in strings]
        n_known = len(contexts.text_lengths)
        text = contexts.text_number(tokens)
        if text == n_known:
            self.uses.update(tokens)
        place = _place(row.get(at), values)
        contexts.feature.append(index)
        contexts.text.append(text)
        contexts.place.append(place)
        contexts.top.append(row.get(low) == -1)
        contexts.value.append(values[place])
        contexts.lengths.append(len(active))
        contexts.positions.extend(active.tolist())
        contexts.values.extend(values[active].tolist())


def _place(given: Any, values: np.ndarray) -> int:
    """The position given, or the strongest: an interval that begins at 0 holds positions where
    nothing fires.
    """
    fires = isinstance(given, int) and 0 <= given < len(values) and values[given] > 0
    return int(given) if fires else int(values.argmax())


def parse_origin(path: Path, model: Any, layer: Any, set_name: Any, suffix: Any = None) -> DashboardOrigin:
    if not str(layer).isdecimal():
        raise ImportRefused(f"{path}: layer is {layer!r}; it must be a number.")
    return DashboardOrigin(str(model), int(layer), str(set_name) + (f"__{suffix}" if suffix else ""))
