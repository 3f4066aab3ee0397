"""`make results`: docs/results.md from the metrics of runs (METHOD.md §5), and nothing in it by hand but
docs/results/notes.md.

    python bench/results.py --collect RUN...   copy runs' figures into docs/results/<model>/<layer>-<set>.json (floats to 5 digits)
    python bench/results.py                    write docs/results.md and the Pareto plots from those files

A set named `vasae-s1` is a further seed of `vasae`; `<layer>-sweep-*` are points of the Pareto plot. Seeds
are averaged, intervals are bootstrapped over passages, and ratios are paired: the same passages for both.
"""

import argparse
import json
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

from bench.pareto import Point, draw
from lexiscope import metrics

FOLDER = Path(__file__).parents[1] / "docs" / "results"
STABILITY = "stability.json"
RECIPES = ("paper-plain", "paper-soft", "paper-hard", "plain", "matched", "vasae")
CONTROLS = ("permuted", "gaussian", "rotated")
CHANCE = 0.05
"""What the false discovery rate allows wrong names."""


class Group(NamedTuple):
    """One recipe at one layer: its seeds, averaged."""

    layer: int
    name: str
    seeds: int
    m: dict[str, Any]
    """metrics, averaged"""
    stability: dict[str, Any]
    """by way of naming: recurs, named, tokens"""

    @property
    def is_sweep(self) -> bool:
        return self.name.startswith("sweep-")


# --- collecting ---


def collect(runs: Sequence[Path], folder: Path = FOLDER) -> list[Path]:
    """Copy the figures and the origin of runs; returns the files written."""
    written = []
    for run in runs:
        config = json.loads((run / "cfg.json").read_text())
        details = config["metadata"]["lexiscope"]
        origin = {
            "command": details.get("command") or command_of(config),
            "run": {k: v for k, v in details.items() if k != "command"},
        }
        target = folder / details["model_id"] / f"{details['layer']}-{details['set']}.json"
        target.parent.mkdir(parents=True, exist_ok=True)
        figures = json.loads((run / "metrics.json").read_text())
        target.write_text(json.dumps(rounded(origin | {"metrics": figures}), ensure_ascii=False) + "\n")
        written.append(target)
    return written


def command_of(config: dict[str, Any]) -> str:
    """The `lexiscope train` line that a checkpoint records in its parts."""
    details, plan = config["metadata"]["lexiscope"], config["metadata"]["lexiscope"].get("plan", {})
    parts = ["lexiscope", "train", Path(str(config["metadata"]["model_name"])).name]
    parts += [f"--text={name}" for name in details.get("text", [])]
    parts += [
        f"--layers={details['layer']}",
        f"--recipe={details['recipe']}",
        f"--set={details['set']}",
        f"--k={config['k']}",
    ]
    parts += [f"--{key}={plan[key]}" for key in ("tokens", "seen", "length", "seed") if key in plan]
    return shlex.join(parts)


def rounded(value: Any) -> Any:
    """The same JSON with every float to 5 digits after the point."""
    if isinstance(value, float):
        return round(value, 5)
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list) else value


# --- reading and averaging ---


def load(folder: Path) -> tuple[list[Group], list[str]]:
    """The recipes of one model's folder in the order they are shown, and the commands that made them."""
    stability = json.loads((folder / STABILITY).read_text()) if (folder / STABILITY).is_file() else {}
    seeds: dict[tuple[int, str], list[dict[str, Any]]] = {}
    commands = []
    for path in sorted(folder.glob("*.json")):
        match = re.fullmatch(r"(\d+)-(.+?)(-s\d+)?", path.stem)
        if match:
            found = json.loads(path.read_text())
            seeds.setdefault((int(match[1]), match[2]), []).append(found["metrics"])
            commands.append(found["command"])
    groups = [
        Group(layer, name, len(m), mean(m), stability.get(f"{layer}-{name}", {}))
        for (layer, name), m in seeds.items()
    ]
    return sorted(groups, key=lambda g: (g.layer, _place(g.name), g.name)), commands


def _place(name: str) -> int:
    known = (*RECIPES, *CONTROLS)
    return known.index(name) if name in known else len(known)


def mean(seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Numbers averaged, key by key, where every seed has them; passages averaged where they are the same."""
    found: dict[str, Any] = {}
    for key, value in seeds[0].items():
        values = [seed[key] for seed in seeds if key in seed]
        if len(values) < len(seeds):
            continue
        if key == "passage_delta_ce":
            same = len({json.dumps([count for _, count in v]) for v in values}) == 1
            if same:
                found[key] = [
                    [sum(v[i][0] for v in values) / len(values), count] for i, (_, count) in enumerate(value)
                ]
        elif isinstance(value, dict):
            found[key] = mean(values)
        elif isinstance(value, list):
            found[key] = [sum(column) / len(values) for column in zip(*values, strict=True)]
        elif isinstance(value, int | float):
            found[key] = sum(values) / len(values)
        elif len(set(values)) == 1:
            found[key] = value
    return found


def ratio(group: Group, other: Group | None) -> metrics.Ratio | None:
    """ΔCE of one over the other with its paired interval; None where they were not scored on the same
    passages.
    """
    if (
        other is None
        or group is other
        or "passages" not in group.m
        or group.m["passages"] != other.m.get("passages")
    ):
        return None
    if "passage_delta_ce" not in group.m or "passage_delta_ce" not in other.m:
        return None
    return metrics.paired_ratio(group.m["passage_delta_ce"], other.m["passage_delta_ce"])


def interval(m: dict[str, Any]) -> tuple[float, float]:
    """Of the mean over seeds, where the passages are known."""
    if "passage_delta_ce" in m:
        pairs = torch.tensor(m["passage_delta_ce"], dtype=torch.float64)
        return metrics.bootstrap_mean(pairs[:, 0], pairs[:, 1])
    low, high = m["delta_ce_ci"]
    return low, high


# --- tables ---

Cell = Callable[[Group, dict[str, Group]], str]


def share(key: str, null: str | None = None) -> Cell:
    def cell(group: Group, _: dict[str, Group]) -> str:
        value = number(group.m.get(key))
        return f"{value} ({number(group.m.get(null))})" if null else value

    return cell


def number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def delta_ce(group: Group, _: dict[str, Group]) -> str:
    low, high = interval(group.m)
    return f"{group.m['delta_ce']:.4f} ({low:.4f}, {high:.4f})"


def against(name: str) -> Cell:
    def cell(group: Group, layer: dict[str, Group]) -> str:
        found = ratio(group, layer.get(name))
        return f"{found.value:.3f} ({found.low:.3f}, {found.high:.3f})" if found else "–"

    return cell


def tokens(group: Group, _: dict[str, Group]) -> str:
    return f"{group.m['tokens']:,.0f} ({group.m.get('ce_tokens', group.m['tokens']):,.0f})"


TABLES: dict[str, dict[str, Cell]] = {
    "Reconstruction": {
        "tokens (scored)": tokens,
        "L0": share("l0"),
        "FVE": share("fve"),
        "ΔCE (95 %)": delta_ce,
        "× matched": against("matched"),
        "× plain": against("plain"),
        "KL": share("kl"),
        "CE recovered, zero": share("ce_recovered_zero"),
        "mean": share("ce_recovered_mean"),
        "logit lens": share("logit_lens_agreement"),
        "dense": share("dense_share"),
    },
    "Alignment, dead features, coverage": {
        "dead": share("dead_share"),
        "dead of seen tokens": share("dead_share_seen"),
        "vocabulary seen": share("vocab_seen"),
        "aligned: all": share("aligned_all"),
        "live": share("aligned_live"),
        "firing": share("aligned_firing"),
        "energy": share("aligned_energy"),
        "live, to W_E": share("aligned_live_embedding"),
        "name is assigned": share("name_is_assigned"),
        "coverage": share("coverage"),
    },
    "Names (null in brackets)": {
        "reads": share("reads_precision", "reads_null"),
        "family": share("reads_family", "reads_family_null"),
        "predicts": share("predicts_precision", "predicts_null"),
        "supported live": share("supported_live"),
        "firing": share("supported_firing"),
        "names permuted: live": share("supported_permuted"),
        "firing ": share("supported_permuted_firing"),
    },
}
WAYS = {
    "nearest": "nearest anchor",
    "assigned": "assigned token",
    "lift": "highest lift",
    "lens": "top logit-lens token",
}


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield "| " + " | ".join(header) + " |"
    yield "|" + "---|" * len(header)
    for row in rows:
        yield "| " + " | ".join(row) + " |"
    yield ""


def section(
    model: str, groups: Sequence[Group], commands: Sequence[str], plots: Sequence[str]
) -> Iterator[str]:
    """Everything about one model."""
    layers = {
        layer: {g.name: g for g in groups if g.layer == layer} for layer in sorted({g.layer for g in groups})
    }
    shown = [g for g in groups if not g.is_sweep]
    made = f"*Made by `python bench/results.py` from `docs/results/{model}/*.json`.*"
    yield f"## {model}\n"
    yield from reach_section(layers, made)
    for title, columns in TABLES.items():
        yield f"### {title}\n"
        rows = [
            [str(g.layer), g.name, str(g.seeds), *(cell(g, layers[g.layer]) for cell in columns.values())]
            for g in shown
        ]
        yield from table(["layer", "dictionary", "seeds", *columns], rows)
        yield made + "\n"
    yield from naming_section(shown, made)
    if plots:
        yield "### Trade-off\n"
        yield from (f"![supported and aligned share against ΔCE](results/{plot})" for plot in plots)
        yield f"\n*Drawn by `python bench/results.py` from `docs/results/{model}/*.json`.*\n"
    yield "<details><summary>The commands that trained these</summary>\n\n```"
    yield from dict.fromkeys(commands)
    yield "```\n\n</details>\n"


def naming_section(groups: Sequence[Group], made: str) -> Iterator[str]:
    """The rivals: the same features, named otherwise."""
    rows = []
    for g in groups:
        for way, words in WAYS.items():
            m = g.m.get(f"named_{way}")
            if m:
                keys = (
                    "supported_live",
                    "supported_firing",
                    "reads_precision",
                    "reads_family",
                    "predicts_precision",
                    "coverage_supported",
                )
                again = g.stability.get(way, {})
                stable = [number(again.get("recurs")), number(again.get("named"))]
                rows.append([str(g.layer), g.name, words, *(number(m.get(key)) for key in keys), *stable])
    if rows:
        yield "### The same features under other names\n"
        yield "Covered: tokens that name a live supported feature, of those that occur. Recurs: tokens whose feature has, as its nearest in"
        yield "another seed, one of the same name; in both: tokens that name a live feature in both seeds (`python bench/stability.py`).\n"
        figures = ["supported live", "firing", "reads", "family", "predicts", "covered", "recurs", "in both"]
        yield from table(["layer", "dictionary", "named by", *figures], rows)
        yield made + "\n"


# --- reach ---


RIVAL = {
    "supported_live": "support, live",
    "supported_firing": "support, firing",
    "coverage_supported": "coverage",
}


class Aim(NamedTuple):
    words: str
    value: float | None
    bound: float
    at_least: bool

    @property
    def says(self) -> str:
        if self.value is None:
            return "not measured"
        missed = self.bound - self.value if self.at_least else self.value - self.bound
        return f"met ({self.value:.3f})" if missed <= 0 else f"**missed by {missed:.3f}** ({self.value:.3f})"


def aims(layer: dict[str, Group]) -> list[Aim]:
    """Issue 4's reach for `vasae` at one layer."""
    vasae, plain = layer["vasae"], layer.get("plain")
    m = vasae.m
    matched, beside_plain = ratio(vasae, layer.get("matched")), ratio(vasae, plain)
    found = [
        Aim(f"aligned, {kind} ≥ 0.9", m.get(f"aligned_{kind}"), 0.9, True)
        for kind in ("live", "firing", "energy")
    ]
    found += [
        Aim("ΔCE × matched, upper end ≤ 1.03", matched and matched.high, 1.03, False),
        Aim("ΔCE × plain ≤ 1", beside_plain and beside_plain.value, 1.0, False),
        Aim("dead of seen tokens ≤ 0.05", m.get("dead_share_seen"), 0.05, False),
        Aim("supported, live ≥ 0.7", m.get("supported_live"), 0.7, True),
        Aim("supported, firing ≥ 0.7", m.get("supported_firing"), 0.7, True),
        Aim("names permuted ≤ 0.05", m.get("supported_permuted"), CHANCE, False),
    ]
    for name in CONTROLS:
        control = layer.get(name)
        found.append(
            Aim(
                f"{name} anchors, supported ≤ 0.05",
                control and control.m.get("supported_live"),
                CHANCE,
                False,
            )
        )
    for rival in (plain, layer.get("matched")):
        found += _beside(m.get("named_nearest", {}), rival)
    stable = [way.get("recurs") for kind, way in (plain.stability if plain else {}).items() if kind in WAYS]
    mine = vasae.stability.get("nearest", {}).get("recurs")
    found.append(
        Aim(
            "stability − plain's, best named afterwards ≥ 0",
            _minus(mine, max(stable, default=None)),
            0.0,
            True,
        )
    )
    return found


def _beside(own: dict[str, float], rival: Group | None) -> list[Aim]:
    """Names by the own anchors beside the best way of naming a dictionary without anchors afterwards."""
    ways = (
        [rival.m[f"named_{way}"] for way in ("nearest", "lift", "lens") if f"named_{way}" in rival.m]
        if rival
        else []
    )
    name = rival.name if rival else "a dictionary without anchors"
    best = {key: max((way[key] for way in ways), default=None) for key in RIVAL}
    return [
        Aim(f"{words} − {name}'s, best named afterwards ≥ 0", _minus(own.get(key), best[key]), 0.0, True)
        for key, words in RIVAL.items()
    ]


def _minus(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b


def reach_section(layers: dict[int, dict[str, Group]], made: str) -> Iterator[str]:
    found = {layer: aims(groups) for layer, groups in layers.items() if "vasae" in groups}
    if not found:
        return
    yield "### Reach of `vasae` (issue 4)\n"
    rows = [
        [aim.words, *(per[i].says for per in found.values())]
        for i, aim in enumerate(next(iter(found.values())))
    ]
    yield from table(["aim", *(f"layer {layer}" for layer in found)], rows)
    yield made + "\n"


# --- the page ---


def plots(model: str, groups: Sequence[Group], folder: Path) -> list[str]:
    """A Pareto plot of each layer that has a sweep; their file names."""
    names = []
    for layer in sorted({g.layer for g in groups if g.is_sweep}):
        points = [
            Point(
                g.name.removeprefix("sweep-"),
                g.is_sweep,
                g.m["delta_ce"],
                g.m["supported_live"],
                g.m["aligned_live"],
            )
            for g in groups
            if g.layer == layer and (g.is_sweep or g.name in RECIPES)
        ]
        names.append(f"pareto-{model}-{layer}.svg")
        (folder / names[-1]).write_text(draw(f"{model}, layer {layer}", points))
    return names


def page(folder: Path = FOLDER) -> str:
    lines = [
        "# Results\n",
        "Written by `make results` (`python bench/results.py`); only the last part, `docs/results/notes.md`, is by hand.",
    ]
    lines.append(
        "Definitions: `lexiscope/metrics.py`, `lexiscope/evidence.py`, METHOD §5. Figures are means over the seeds counted; intervals"
    )
    lines.append("are 95 % bootstraps over passages of the mean over seeds, and ratios are paired.\n")
    for model in sorted(path.name for path in folder.iterdir() if path.is_dir()):
        groups, commands = load(folder / model)
        if groups:
            lines += section(model, groups, commands, plots(model, groups, folder))
    notes = folder / "notes.md"
    return "\n".join(lines) + ("\n" + notes.read_text() if notes.is_file() else "")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--collect", nargs="+", type=Path, metavar="RUN", default=[])
    asked = parser.parse_args()
    for path in collect(asked.collect):
        print(f"collected {path}")
    if not asked.collect:
        target = FOLDER.parent / "results.md"
        target.write_text(page())
        print(f"written to {target}")


if __name__ == "__main__":
    main()
