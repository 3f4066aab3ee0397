"""What a reported number is: its name, unit, definition and the places where it is shown."""

from collections.abc import Iterable, Mapping
from dataclasses import KW_ONLY, dataclass
from types import MappingProxyType
from typing import Literal

Unit = Literal[
    "share",
    "cosine",
    "nats",
    "activation",
    "fraction",
    "number",
    "per token",
    "q-value",
    "rank",
    "median rank",
    "tokens",
    "features",
    "contexts",
    "passages",
    "flag",
    "text",
    "list",
]
"""`share` is in [0, 1] and shown in per cent (a score may be below zero); `fraction` is at most 1 and may be
far below zero; `number` has no unit; `activation` is on the dictionary's own scale; `text` is an id or words.
"""
Place = Literal[
    "activity",
    "evidence",
    "ablation",
    "scores",
    "writing",
    "tiles",
    "table",
    "plot",
    "alignment",
    "eval",
]
"""Where a measure is shown without a line of its own in a template. Feature page: `activity` (tiles),
`evidence`, `ablation`, `scores` and `writing` (rows). Dictionary page and `lexiscope name`: `tiles`. Home
page: `table` (also a line after training), `plot` and `alignment` (charts). `lexiscope eval`: `eval`.
"""
CHANCE = "the same for frequency-matched random tokens"
"""what every chance column holds"""
DIGITS: Mapping[Unit, int] = MappingProxyType(
    {
        **{"cosine": 3, "nats": 4, "fraction": 3, "q-value": 3},
        **{"activation": 2, "number": 2, "per token": 1, "median rank": 1},
    }
)
"""decimals of the units that have some; a share has more the smaller it is"""


@dataclass(frozen=True)
class Measure:
    """One reported number."""

    name: str
    """column, record field and key"""
    label: str
    """heading, lower case"""
    unit: Unit
    meaning: str
    """definition: a phrase without a final stop"""
    _: KW_ONLY
    chance: str = ""
    """name of the value that chance gives, where one is measured"""
    interval: str = ""
    """name of its 95 % interval [low, high], where one is computed"""
    absent: str = ""
    """when it is null; empty where it never is"""
    places: tuple[Place, ...] = ()
    better: Literal["more", "less", ""] = ""
    """which end is better, where dictionaries are compared"""

    @property
    def sentence(self) -> str:
        """The meaning as a sentence, for a page."""
        return f"{self.meaning[0].upper()}{self.meaning[1:]}."

    @property
    def comment(self) -> str:
        """The meaning and when it is null, for a column or a field."""
        return f"{self.meaning}; null {self.absent}" if self.absent else self.meaning


def placed(measures: Mapping[str, Measure], place: Place) -> list[Measure]:
    """Those shown at a place, in order."""
    return [measure for measure in measures.values() if place in measure.places]


def as_text(measure: Measure, value: float | None) -> str:
    """A value for a terminal; – where it is absent."""
    if value is None:
        return "–"
    if measure.unit == "share":
        return f"{value * 100:.1f} %"
    if measure.unit in DIGITS:
        return f"{value:.{DIGITS[measure.unit]}f}"
    return f"{value:,}"


def by_name(measures: Iterable[Measure]) -> Mapping[str, Measure]:
    return MappingProxyType({measure.name: measure for measure in measures})
