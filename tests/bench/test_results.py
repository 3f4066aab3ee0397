"""docs/results.md is generated: what the runs measured is in it, with intervals, seeds, misses and the
commands that made it.
"""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from bench.results import STABILITY, aims, collect, load, mean, page, ratio, rounded

SHARES = (
    "fve nmse kl ce_recovered_zero ce_recovered_mean logit_lens_agreement dead_share dead_share_seen vocab_seen dense_share "
    "aligned_all aligned_live aligned_firing aligned_energy aligned_live_embedding coverage name_is_assigned reads_precision reads_null "
    "reads_family reads_family_null predicts_precision predicts_null supported_live supported_firing supported_permuted "
    "supported_permuted_firing"
).split()


def fabricate(work: Path, name: str, delta: float, *, seed: int = 0, **figures: Any) -> Path:
    """A run folder whose passages cost `delta` nats a token, give or take what the passage itself costs."""
    draw = random.Random(0)
    passages = [[(delta + draw.gauss(0, 0.01)) * 100, 100] for _ in range(200)]
    way = dict.fromkeys(
        ("supported_live", "supported_firing", "reads_precision", "reads_family", "predicts_precision"), 0.5
    )
    metrics = dict.fromkeys(SHARES, 0.5) | {
        "protocol": "held out",
        "tokens": 20_000,
        "ce_tokens": 20_000,
        "passages": "abc",
        "seed": seed,
        "l0": 32.0,
        "ce": 3.0,
        "ce_sae": 3.0 + delta,
        "delta_ce": sum(d for d, _ in passages) / 20_000,
        "delta_ce_ci": [delta - 0.01, delta + 0.01],
        "d_sae": 100,
        "n_live": 50,
        "named_nearest": way | {"coverage_supported": 0.25},
        "named_lift": way | {"supported_live": 0.625, "coverage_supported": 0.25},
        "passage_delta_ce": passages,
    }
    layer, set_name = name.split("-", 1)
    details = {
        "model_id": "toy",
        "layer": int(layer),
        "set": set_name,
        "recipe": set_name.split("-s")[0],
        "text": ["a.txt"],
        "seed": seed,
    }
    config = {
        "k": 32,
        "metadata": {
            "model_name": "/models/toy",
            "lexiscope": details | {"plan": {"tokens": 10, "seen": 20, "seed": seed}},
        },
    }
    run = work / "toy" / name
    run.mkdir(parents=True)
    (run / "cfg.json").write_text(json.dumps(config))
    (run / "metrics.json").write_text(json.dumps(metrics | figures))
    return run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Collected figures of a plain, a matched and two seeds of a vasae, with a sweep."""
    high = {
        "aligned_live": 0.95,
        "aligned_firing": 0.93,
        "supported_live": 0.61234567,
        "dead_share_seen": 0.01,
    }
    runs = [
        fabricate(tmp_path / "runs", "3-plain", 0.10),
        fabricate(tmp_path / "runs", "3-matched", 0.05),
        fabricate(tmp_path / "runs", "3-vasae", 0.05, **high),
        fabricate(tmp_path / "runs", "3-vasae-s1", 0.06, seed=1, **high),
        *(
            fabricate(tmp_path / "runs", f"3-sweep-k{k}", 0.02 * k, supported_live=0.1 * k)
            for k in range(1, 6)
        ),
    ]
    out = tmp_path / "results"
    collect(runs, out)
    (out / "notes.md").write_text("## By hand\n\nWhat did not work.\n")
    return out


def test_collecting_keeps_everything_and_rounds_floats(folder: Path) -> None:
    found = json.loads((folder / "toy" / "3-vasae.json").read_text())
    assert found["metrics"]["supported_live"] == 0.61235
    assert len(found["metrics"]["passage_delta_ce"]) == 200
    assert found["command"].startswith(
        "lexiscope train toy --text=a.txt --layers=3 --recipe=vasae --set=vasae --k=32"
    )
    assert found["run"]["seed"] == 0
    assert rounded({"a": [1, 0.123456, {"b": "x", "c": True}]}) == {"a": [1, 0.12346, {"b": "x", "c": True}]}


def test_seeds_are_averaged_and_counted(folder: Path) -> None:
    groups, _ = load(folder / "toy")
    vasae = next(g for g in groups if g.name == "vasae")
    assert vasae.seeds == 2
    seeds = [
        json.loads((folder / "toy" / f"3-{name}.json").read_text())["metrics"]
        for name in ("vasae", "vasae-s1")
    ]
    assert vasae.m["delta_ce"] == pytest.approx((seeds[0]["delta_ce"] + seeds[1]["delta_ce"]) / 2)
    assert vasae.m["passage_delta_ce"][7][0] == pytest.approx(
        (seeds[0]["passage_delta_ce"][7][0] + seeds[1]["passage_delta_ce"][7][0]) / 2
    )
    assert "passages" in vasae.m
    assert "passage_delta_ce" not in mean([seeds[0], seeds[1] | {"passage_delta_ce": [[1.0, 3]]}])


def test_ratios_are_paired_and_refused_across_passages(folder: Path) -> None:
    groups, _ = load(folder / "toy")
    named = {g.name: g for g in groups}
    found = ratio(named["vasae"], named["matched"])
    assert found is not None and found.low < found.value < found.high
    assert found.value == pytest.approx(
        named["vasae"].m["delta_ce"] / named["matched"].m["delta_ce"], rel=1e-3
    )
    named["matched"].m["passages"] = "other"
    assert ratio(named["vasae"], named["matched"]) is None


def test_the_reach_says_what_is_met_and_by_how_much_the_rest_is_missed(folder: Path) -> None:
    (folder / "toy" / STABILITY).write_text(
        json.dumps({"3-vasae": {"nearest": {"recurs": 0.7}}, "3-plain": {"nearest": {"recurs": 0.4}}})
    )
    groups, _ = load(folder / "toy")
    found = {aim.words: aim.says for aim in aims({g.name: g for g in groups})}
    assert found["aligned, live ≥ 0.9"] == "met (0.950)"
    assert found["aligned, energy ≥ 0.9"] == "**missed by 0.400** (0.500)"
    assert found["supported, live ≥ 0.7"] == "**missed by 0.088** (0.612)"
    assert found["gaussian anchors, supported ≤ 0.05"] == "not measured"
    assert found["stability − plain's, best named afterwards ≥ 0"] == "met (0.300)"
    assert "missed by 0.125" in found["support, live − plain's, best named afterwards ≥ 0"]


def test_the_page_holds_tables_plots_commands_and_the_notes(folder: Path) -> None:
    text = page(folder)
    for part in (
        "## toy",
        "| 3 | vasae | 2 |",
        "0.612",
        "highest lift",
        "results/pareto-toy-3.svg",
        "lexiscope train toy",
        "What did not work.",
    ):
        assert part in text, part
    assert "| 3 | sweep-" not in text
    assert text.count("Made by `python bench/results.py`") == 5
    svg = (folder / "pareto-toy-3.svg").read_text()
    assert svg.count("<circle") == 10 and svg.count("<rect x") == 6
    for line in text.splitlines():
        if line.startswith("|") and "aim" not in line:
            assert line.endswith("|")
