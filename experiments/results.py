"""`make results` (`python -m experiments.results`): the tables and plots of docs/results.md, from the figures
that `python -m experiments.collect` and `python -m experiments.lookup` put into results/.
"""

import json
from pathlib import Path

from experiments import indexed, lookup
from experiments.figures import CONTROLS, RECIPES, Group, Model, interval, load, mean, ratio
from experiments.page import DOCS, RESULTS, dictionary_name, fill, table
from experiments.plots import COLOURS, DISTINCT, Panel, Point, Series, draw

PAGE, PLOTS = DOCS / "results.md", DOCS / "plots"
WITHIN = 1.03
"""ΔCE of cone over matched that counts as no cost"""
DEFAULT_COSINE = 0.802


def number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def layers_of(model: Model) -> str:
    """ "0–5" or "10, 20"."""
    layers = model.layers
    if len(layers) > 2 and layers == list(range(layers[0], layers[-1] + 1)):
        return f"{layers[0]}–{layers[-1]}"
    return ", ".join(map(str, layers))


def over_layers(model: Model, name: str, key: str) -> float | None:
    """The mean over layers of a figure, `block/key` for one in a block."""
    return mean(_value(group, key) for group in model.of_set(name))


def _value(group: Group, key: str) -> float | None:
    block, _, inside = key.rpartition("/")
    return (group.metrics.get(block, {}) if block else group.metrics).get(inside)


def cost(models: list[Model]) -> list[str]:
    """ΔCE of each recipe, and of cone over the others."""
    rows = []
    for model in models:
        beside = {
            name: [r for g in model.of_set("cone") if (r := ratio(g, model.get(g.layer, name)))]
            for name in RECIPES
        }
        near = sum(r.high <= WITHIN for r in beside["matched"])
        rows.append(
            [
                model.name,
                layers_of(model),
                *(number(over_layers(model, name, "fve"), 3) for name in RECIPES),
                *(number(over_layers(model, name, "delta_ce"), 3) for name in RECIPES),
                *(_mean_and_range([r.value for r in beside[name]]) for name in ("matched", "plain")),
                f"{near} of {len(beside['matched'])}",
            ]
        )
    header = ["model", "layers", *(f"FVE {name}" for name in RECIPES), *(f"ΔCE {name}" for name in RECIPES)]
    return table([*header, "ΔCE × matched", "× plain", f"layers ≤ {WITHIN}"], rows)


def _mean_and_range(values: list[float]) -> str:
    return f"{number(mean(values))} ({min(values):.2f}–{max(values):.2f})" if values else "–"


NAMINGS = ("own names", "on the nearest anchor", "own names, permuted")
"""what experiments.relation_names measures that this page shows"""


def names(models: list[Model], kept: Path = RESULTS / "relation-names.json") -> list[str]:
    """Names with a relation beside the nearest anchor's token and beside permuted names, by one rule."""
    found = json.loads(kept.read_text(encoding="utf-8"))["rows"] if kept.is_file() else []
    rows = []
    for row in found:
        if row["names"] in NAMINGS:
            shares = [row["of_tested"]["specific"]]
            for key in ("of_tested", "of_live", "of_firings"):
                shares.append(row[key]["specific"] + row[key]["partial"])
            rows.append([dictionary_name(row["dictionary"]), row["names"], *map(number, shares)])
    header = ["specific, of tested", "holds, of tested", "of live", "of firings"]
    return table(["dictionary", "named by", *header], rows)


def seeds(models: list[Model]) -> list[str]:
    """How many names recur in another seed, by the two ways of naming that are compared."""
    rows = []
    for model in models:
        for name in RECIPES:
            found = [group.stability for group in model.of_set(name) if group.stability]
            if found:
                values = [mean(each.get(way, {}).get(key) for each in found) for key, way in STABLE]
                rows.append([model.name, name, *map(number, values)])
    header = [
        "by nearest anchor: the same, nearest feature",
        "any live feature",
        "by highest lift: the same",
        "any",
    ]
    return table(["model", "dictionary", *header], rows)


STABLE = [(key, way) for way in ("nearest", "lift") for key in ("recurs", "named")]


def controls(models: list[Model]) -> list[str]:
    """Dictionaries trained on anchors that say nothing of their tokens."""
    keys = ("aligned_live", "reads_precision", "dead_share", "delta_ce")
    rows = []
    for model in models:
        for layer in sorted({group.layer for group in model.groups if group.name in CONTROLS}):
            for name in ("cone", *CONTROLS):
                if group := model.get(layer, name):
                    figures = [number(group.metrics.get(key), 3 if key == "delta_ce" else 2) for key in keys]
                    rows.append([model.name, layer, "own" if name == "cone" else name, *figures])
    header = ["aligned, live", "on the anchor's token", "dead", "ΔCE"]
    return table(["model", "layer", "anchors", *header], rows)


def by_layer(models: list[Model]) -> str:
    """ΔCE of each recipe at each layer."""
    panels = []
    for model in models:
        series = [
            Series(name, COLOURS[name], [_delta_ce(group) for group in model.of_set(name)])
            for name in RECIPES
        ]
        high = max(point.high or point.y for each in series for point in each.points)
        panels.append(Panel(model.name, "layer", "ΔCE, nats a token", series, (0, high), model.layers))
    return draw(panels)


def _delta_ce(group: Group) -> Point:
    return Point(group.layer, group.metrics["delta_ce"], *interval(group))


SWEPT = {"aligned, live": "aligned_live", "supported, live": "supported_live"}


def cone_sweep(models: list[Model]) -> str:
    """What the cone's cosine changes: ΔCE over matched's, and the aligned and the supported share of live
    features.
    """
    lines: dict[str, list[tuple[float, Group, Group | None]]] = {}
    for model in models:
        for layer in sorted({group.layer for group in model.groups if group.is_sweep}):
            swept = {
                float(group.name.removeprefix("sweep-cosine-")): group
                for group in model.groups
                if group.layer == layer and group.is_sweep
            }
            if default := model.get(layer, "cone"):
                swept[DEFAULT_COSINE] = default
            matched = model.get(layer, "matched")
            lines[f"{model.name}, layer {layer}"] = [
                (x, group, matched) for x, group in sorted(swept.items())
            ]
    colours = dict(zip(lines, DISTINCT, strict=False))
    cosines = sorted({x for line in lines.values() for x, _, _ in line})
    costs = [
        Series(
            name,
            colours[name],
            [Point(x, r.value) for x, group, matched in line if (r := ratio(group, matched))],
        )
        for name, line in lines.items()
    ]
    highest = max((point.y for each in costs for point in each.points), default=1.0)
    panels = [Panel("ΔCE × matched", "--cosine", "", costs, (0, highest), cosines, target=1.0)]
    for title, key in SWEPT.items():
        series = [
            Series(name, colours[name], [Point(x, group.metrics[key]) for x, group, _ in line])
            for name, line in lines.items()
        ]
        panels.append(Panel(title, "--cosine", "", series, (0, 1), cosines))
    return draw(panels)


def write(page: Path = PAGE, plots: Path = PLOTS, results: Path = RESULTS) -> None:
    models = load(results)
    blocks = {"cost": cost, "names": names, "seeds": seeds, "controls": controls}
    written = {block: make(models) for block, make in blocks.items()}
    written |= {"lookup": lookup.tables(), "reach": lookup.reach()}
    written |= {"words": indexed.found_and_written(), "verdicts": indexed.verdict_counts()}
    fill(page, written)
    (plots / "cost-by-layer.svg").write_text(by_layer(models), encoding="utf-8")
    (plots / "cone-sweep.svg").write_text(cone_sweep(models), encoding="utf-8")
    (plots / "lookup-curve.svg").write_text(lookup.curves(), encoding="utf-8")


if __name__ == "__main__":
    write()
