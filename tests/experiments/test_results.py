"""docs/results.md is made from committed figures: runs are collected without paths of the machine, seeds are
averaged, and dictionaries are compared on the same passages.
"""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from experiments import (
    false_positives,
    indexed,
    lookup,
    methods,
    recurrence,
    relation_names,
    results,
    rivals,
    steering,
)
from experiments.collect import collect
from experiments.figures import STABILITY, Model, average, load, ratio, rounded
from experiments.page import dictionary_name, filled
from lexiscope.settings import Settings
from tests.store import synthetic

SHARES = (
    "fve dead_share aligned_live reads_precision supported_live supported_firing supported_permuted"
).split()
NAMED = ("supported_live", "supported_firing", "reads_precision", "reads_family", "coverage_supported")


def fabricate(work: Path, name: str, delta: float, *, seed: int = 0, **figures: Any) -> Path:
    """A run folder whose passages cost `delta` nats a token, give or take what the passage itself costs."""
    draw = random.Random(0)
    passages = [[(delta + draw.gauss(0, 0.01)) * 100, 100] for _ in range(200)]
    named = dict.fromkeys(NAMED, 0.5)
    metrics = dict.fromkeys(SHARES, 0.5) | {
        "passages": "abc",
        "delta_ce": sum(difference for difference, _ in passages) / 20_000,
        "delta_ce_ci": [delta - 0.01, delta + 0.01],
        "named_nearest": named,
        "named_lift": named | {"supported_live": 0.625},
        "passage_delta_ce": passages,
    }
    layer, set_name = name.split("-", 1)
    details = {
        "model_id": "toy",
        "layer": int(layer),
        "set": set_name,
        "recipe": "cone",
        "text": ["a.txt"],
        "plan": {"tokens": 10, "seen": 20, "seed": seed},
        "command": f"lexiscope train /models/toy --out=/scratch/runs --layers {layer}",
    }
    run = work / "toy" / name
    run.mkdir(parents=True)
    config = {"k": 32, "metadata": {"model_name": "/models/toy", "lexiscope": details}}
    (run / "cfg.json").write_text(json.dumps(config))
    (run / "metrics.json").write_text(json.dumps(metrics | figures))
    return run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Collected figures of a plain, a matched, a control and two seeds of a cone, with a sweep."""
    runs = [
        fabricate(tmp_path / "runs", "3-plain", 0.10),
        fabricate(tmp_path / "runs", "3-matched", 0.05),
        fabricate(tmp_path / "runs", "3-permuted", 0.07, supported_live=0.25),
        fabricate(tmp_path / "runs", "3-cone", 0.05, supported_live=0.61234567),
        fabricate(tmp_path / "runs", "3-cone-s1", 0.06, seed=1, supported_live=0.71234567),
        *(fabricate(tmp_path / "runs", f"3-sweep-cosine-{c}", 0.05 * c, aligned_live=c) for c in (0.5, 0.9)),
    ]
    out = tmp_path / "results"
    collect(runs, out)
    stability = {"nearest": {"recurs": 0.7, "named": 0.8}, "lift": {"recurs": 0.25, "named": 0.5}}
    (out / "toy" / STABILITY).write_text(json.dumps({"3-cone": stability}))
    return out


def toy(folder: Path) -> Model:
    (model,) = load(folder)
    return model


def test_collecting_rounds_floats_and_keeps_no_path_of_the_machine(folder: Path) -> None:
    found = json.loads((folder / "toy" / "3-cone.json").read_text())
    assert found["metrics"]["supported_live"] == 0.61235
    assert len(found["metrics"]["passage_delta_ce"]) == 200
    assert found["command"] == "lexiscope train toy --out=runs --layers 3"
    assert rounded({"a": [1, 0.123456, {"b": "x", "c": True}]}) == {"a": [1, 0.12346, {"b": "x", "c": True}]}


def test_seeds_are_averaged_and_counted(folder: Path) -> None:
    cone = toy(folder).get(3, "cone")
    assert cone is not None and cone.seeds == 2
    files = [folder / "toy" / f"3-{name}.json" for name in ("cone", "cone-s1")]
    seeds = [json.loads(file.read_text())["metrics"] for file in files]
    assert cone.metrics["delta_ce"] == pytest.approx((seeds[0]["delta_ce"] + seeds[1]["delta_ce"]) / 2)
    passages = [seed["passage_delta_ce"][7][0] for seed in seeds]
    assert cone.metrics["passage_delta_ce"][7][0] == pytest.approx(sum(passages) / 2)
    assert "passage_delta_ce" not in average([seeds[0], seeds[1] | {"passage_delta_ce": [[1.0, 3]]}])


def test_ratios_are_paired_and_refused_across_passages(folder: Path) -> None:
    cone, matched = (toy(folder).get(3, name) for name in ("cone", "matched"))
    assert cone is not None and matched is not None
    found = ratio(cone, matched)
    assert found is not None and found.low < found.value < found.high
    assert found.value == pytest.approx(cone.metrics["delta_ce"] / matched.metrics["delta_ce"], rel=1e-3)
    matched.metrics["passages"] = "other"
    assert ratio(cone, matched) is None


def test_each_claim_has_a_table_of_its_figures(folder: Path) -> None:
    models = [toy(folder)]
    assert "1.10 (1.10–1.10)" in results.cost(models)[2] and results.cost(models)[2].endswith("0 of 1 |")
    shares = {"specific": 0.25, "partial": 0.5, "weak": 0.0, "none": 0.25}
    row = {"dictionary": "toy/3-cone", "of_tested": shares, "of_live": shares, "of_firings": shares}
    kept = folder / "relation-names.json"
    kept.write_text(json.dumps({"rows": [row | {"names": name} for name in ("own names", "another")]}))
    [held] = results.names(models, kept)[2:]
    assert held == "| toy/3-cone | own names | 0.25 | 0.75 | 0.75 | 0.75 |"
    assert results.seeds(models)[2:] == ["| toy | cone | 0.70 | 0.80 | 0.25 | 0.50 |"]
    assert [row.split(" | ")[2] for row in results.controls(models)[2:]] == ["own", "permuted"]


def test_plots_hold_every_run_and_every_point_of_a_sweep(folder: Path) -> None:
    models = [toy(folder)]
    assert results.by_layer(models).count("<circle") == 3
    assert results.cone_sweep(models).count("<circle") == 3 * 3


def test_pages_call_a_dictionary_by_its_recipe() -> None:
    found = [dictionary_name(f"demo/4-{name}") for name in ("fixed", "none", "plain")]
    assert found == ["demo/4-vasae", "demo/4-matched", "demo/4-plain"]


def test_only_the_named_block_of_a_page_is_replaced() -> None:
    page = "before\n<!-- a -->\nold\n<!-- /a -->\nafter\n"
    assert filled(page, "a", ["new", "lines"]) == "before\n<!-- a -->\nnew\nlines\n<!-- /a -->\nafter\n"
    with pytest.raises(ValueError, match="no block 'b'"):
        filled(page, "b", [])


def test_the_pages_are_what_the_committed_figures_make(tmp_path: Path) -> None:
    pages = (results.PAGE, steering.PAGE, false_positives.PAGE, methods.PAGE)
    copies = {page: tmp_path / page.name for page in pages}
    for page, copy in copies.items():
        copy.write_text(page.read_text(encoding="utf-8"), encoding="utf-8")
    results.write(copies[results.PAGE], tmp_path)
    steering.write_page(copies[steering.PAGE])
    for experiment in (false_positives, relation_names, rivals, recurrence, methods):
        experiment.write_page(copies[experiment.PAGE])
    for page, copy in copies.items():
        assert copy.read_text(encoding="utf-8") == page.read_text(encoding="utf-8"), page
    for plot in results.PLOTS.glob("*.svg"):
        if plot.name.startswith("scaling-"):  # of experiments.scaling: a fit, whose last digits differ by CPU
            continue
        assert (tmp_path / plot.name).read_text(encoding="utf-8") == plot.read_text(encoding="utf-8"), plot


def test_reach_compares_the_look_up_with_other_arms_and_marks_what_is_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = {"fve": 0.9, "delta_ce": 0.1, "delta_ce_ci": [0.09, 0.11], "dead_share": 0.04, "lookup_share": 0.5}
    row |= {
        "d_sae": 8,
        "seen": 3000,
        "distinct": 3000,
        "tokens": 50,
        "holds_tested": 0.3,
        "holds_firing": 0.6,
    }
    row["loss"] = {"tokens": [1000, 2000, 3000, 4000], "loss": [0.4, 0.2, 0.15, 0.1]}
    arms = {"none": row | {"delta_ce": 0.25}, "none-equal": row | {"delta_ce": 0.16}, "fixed": row}
    found = {
        "command": "a b",
        "model": "toy",
        "layer": 3,
        "arms": arms,
        "delta_ce_ratios": {"none": [0.4, 0.3, 0.5]},
    }
    (tmp_path / "toy-3-3000.json").write_text(json.dumps(found))
    old = {"loss", "holds_tested", "holds_firing"}
    earlier = {
        arm: {name: value for name, value in each.items() if name not in old} | {"seen": 20_000}
        for arm, each in arms.items()
    }
    (tmp_path / "toy-3-20000.json").write_text(json.dumps(found | {"arms": earlier, "delta_ce_ratios": {}}))
    monkeypatch.setattr(lookup, "FOLDER", tmp_path)
    assert lookup.reach()[2] == (
        "| toy, layer 3 | 3,000 | – | 0.62 | 0.40 (0.30–0.50) | **4.0%** | 0.900 | 0.900 |"
    )
    assert "| 4.0% | 0.50 | 0.30 | 0.60 |" in lookup.tables()[4]
    assert lookup.tables()[-1].endswith("| 4.0% | 0.50 | – | – |  |")
    assert lookup.curves().count("<circle") == 3 * 3  # three arms, the first epoch


def test_the_command_of_a_look_up_file_names_all_its_arms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["lookup", "OUT", "toy", "--only", "none", "--layer", "3"])
    assert lookup.command_of(["none", "fixed"]).endswith("OUT toy --layer 3 --only none --only fixed")


def test_an_arm_is_on_the_front_unless_another_is_better_at_both() -> None:
    figures = {"a": (0.1, 0.5), "b": (0.2, 0.6), "c": (0.3, 0.55), "d": (0.1, 0.4)}
    arms: dict[str, dict[str, float]] = {
        name: {"delta_ce": delta, "holds_tested": holds} for name, (delta, holds) in figures.items()
    }
    assert lookup.front(arms | {"not judged": {"delta_ce": 0.0}}) == {"a", "b"}


def test_the_words_that_an_index_finds_and_writes_and_its_verdicts_have_tables(tmp_path: Path) -> None:
    synthetic.publish(tmp_path / "index")
    files = indexed.keep(Settings(index=tmp_path / "index"), tmp_path / "kept")
    assert [file.name for file in files] == ["other.json", "tiny.json"]
    kept = json.loads(files[1].read_text())
    size = next((tmp_path / "index").glob("*.duckdb")).stat().st_size
    live = sum(
        one["n_live"] for file in files for one in json.loads(file.read_text())["dictionaries"].values()
    )
    assert kept["bytes_a_live_feature"] == round(size / live)
    one = kept["dictionaries"]["1-vasae"] | {"finds": 0.5, "finds_rows": 0.95, "writes": 0.4}
    one |= {"writes_logit": 0.1, "writes_over_features": 0.6, "writes_rows": None}
    one |= {"write_steering": 0.3, "write_ablation": 0.2, "write_verdicts": {"both": 1200, "none": 3}}
    files[0].unlink()
    files[1].write_text(json.dumps(kept | {"dictionaries": {"1-vasae": one}}))
    assert indexed.found_and_written(tmp_path / "kept")[2:] == [
        "| tiny/1-vasae | 0.50 | **0.95** | 0.40 | 0.10 | **4.00** | 0.60 | – | 0.30 | 0.20 |"
    ]
    [counts] = indexed.verdict_counts(tmp_path / "kept")[2:]
    assert counts.endswith("| 1,200 | 0 | 0 | 3 |") and counts.startswith("| tiny/1-vasae | ")
