"""Figures of runs, read from results/<model>/<layer>-<set>.json: seeds averaged, runs compared on the same
passages.

A set named `cone-s1` is a further seed of `cone`; `<layer>-sweep-*` are runs of a sweep.
"""

import json
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from lexiscope import metrics
from lexiscope.files import portable_command

STABILITY = "stability.json"
RECIPES = ("cone", "matched", "plain")
CONTROLS = ("permuted", "gaussian", "rotated")


def kept_rows(path: Path, module: str) -> dict[str, Any]:
    """What an experiment keeps in a file, {commands, rows}, with this command among the commands."""
    kept = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"commands": [], "rows": []}
    command = portable_command(["python", "-m", module, *sys.argv[1:]])
    kept["commands"] = list(dict.fromkeys([*kept["commands"], command]))
    return kept


def keep_row(path: Path, kept: dict[str, Any], row: dict[str, Any]) -> None:
    """Write `kept` with a row in the place of the one of the same dictionary and names."""
    same = (row["dictionary"], row["names"])
    kept["rows"] = [old for old in kept["rows"] if (old["dictionary"], old["names"]) != same] + [row]
    path.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


class Group(NamedTuple):
    """One set at one layer, averaged over its seeds."""

    layer: int
    name: str
    """the set, without its seed"""
    seeds: int
    metrics: dict[str, Any]
    stability: dict[str, Any]
    """by way of naming: recurs, named, tokens"""

    @property
    def is_sweep(self) -> bool:
        return self.name.startswith("sweep-")


class Model(NamedTuple):
    """All sets of one model."""

    name: str
    groups: list[Group]

    @property
    def layers(self) -> list[int]:
        return sorted({group.layer for group in self.groups})

    def get(self, layer: int, name: str) -> Group | None:
        return next((group for group in self.groups if (group.layer, group.name) == (layer, name)), None)

    def of_set(self, name: str) -> list[Group]:
        return [group for group in self.groups if group.name == name]


def load(folder: Path) -> list[Model]:
    """The models that have figures in `folder`, by name; sets by layer and name."""
    found = (_load_model(path) for path in sorted(folder.iterdir()) if path.is_dir())
    return [model for model in found if model.groups]


def _load_model(folder: Path) -> Model:
    stability = json.loads((folder / STABILITY).read_text()) if (folder / STABILITY).is_file() else {}
    seeds: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for path in sorted(folder.glob("*.json")):
        match = re.fullmatch(r"(\d+)-(.+?)(-s\d+)?", path.stem)
        if match:
            seeds.setdefault((int(match[1]), match[2]), []).append(json.loads(path.read_text())["metrics"])
    groups = [
        Group(layer, name, len(runs), average(runs), stability.get(f"{layer}-{name}", {}))
        for (layer, name), runs in seeds.items()
    ]
    return Model(folder.name, sorted(groups, key=lambda group: (group.layer, group.name)))


def average(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Numbers averaged, key by key, where every run has them; `passage_delta_ce` only over the same
    passages.
    """
    found: dict[str, Any] = {}
    for key, value in runs[0].items():
        values = [run[key] for run in runs if key in run]
        if len(values) < len(runs):
            continue
        if key == "passage_delta_ce":
            if len({json.dumps([count for _, count in passages]) for passages in values}) == 1:
                found[key] = [
                    [sum(passages[i][0] for passages in values) / len(values), count]
                    for i, (_, count) in enumerate(value)
                ]
        elif isinstance(value, dict):
            found[key] = average(values)
        elif isinstance(value, list):
            found[key] = [sum(column) / len(values) for column in zip(*values, strict=True)]
        elif isinstance(value, int | float):
            found[key] = sum(values) / len(values)
        elif len(set(values)) == 1:
            found[key] = value
    return found


def ratio(group: Group, other: Group | None) -> metrics.Ratio | None:
    """ΔCE of `group` over ΔCE of `other`, with its paired 95 % interval; None where they were not scored on
    the same passages.
    """
    needed = ("passages", "passage_delta_ce")
    if other is None or any(key not in one.metrics for one in (group, other) for key in needed):
        return None
    if group.metrics["passages"] != other.metrics["passages"]:
        return None
    return metrics.paired_ratio(group.metrics["passage_delta_ce"], other.metrics["passage_delta_ce"])


def interval(group: Group) -> tuple[float, float]:
    """95 % interval of ΔCE: of the mean over seeds, where the passages are known."""
    if "passage_delta_ce" in group.metrics:
        pairs = torch.tensor(group.metrics["passage_delta_ce"], dtype=torch.float64)
        return metrics.bootstrap_mean(pairs[:, 0], pairs[:, 1])
    low, high = group.metrics["delta_ce_ci"]
    return low, high


def mean(values: Iterable[float | None]) -> float | None:
    """The mean of the values that are there; None without any."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def rounded(value: Any) -> Any:
    """The same JSON with every float to 5 digits after the point."""
    if isinstance(value, float):
        return round(value, 5)
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list) else value
