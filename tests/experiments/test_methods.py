"""The arms of the comparison of methods: equal tokens, k and width, and a folder for each."""

import argparse
from pathlib import Path

from experiments.methods import ARMS, BATCH, NAMES, RATE, K, folder_of, most_used, row_of, run_of
from experiments.page import dagger
from trainer import recipes

GIVEN = argparse.Namespace(layer=4, length=256, out=Path("out"))


def test_every_arm_can_be_trained_into_a_folder_of_its_own() -> None:
    runs = {name: run_of(name, GIVEN) for name in NAMES}
    assert len({config.name for config, _ in runs.values()}) == len(runs)
    for name, (config, layers) in runs.items():
        assert config.name == folder_of(name) and layers[0] <= 4 <= layers[-1]
        assert (config.lookup == "fixed") == name.endswith("+lookup")
        length = GIVEN.length if config.batch_of == "passages" else 1
        assert config.batch * length == BATCH
        assert name.startswith("top-afa") or getattr(config, "k", K) == K, name
        assert config.learning_rate in (RATE, RATE / 2)


def test_every_recipe_of_the_literature_has_an_arm() -> None:
    others = {"vasae", "cone", "matched", "paper-plain", "paper-soft", "paper-hard"}
    assert set(recipes()) - others <= {arm.recipe for arm in ARMS.values()}


def test_a_row_shows_the_figures_of_an_arm() -> None:
    row = {"l0": 32.0, "fve": 0.87, "delta_ce": 0.1449, "dead_share": 0.167, "specific_live": 0.2}
    row |= {"holds_live": 0.5, "seen": 1000, "cpu_seconds": 0.5, "machine": "A"}
    cells = ["32.0", "0.870", "0.1449", "16.7%", "20.0%", "50.0%"]
    assert row_of("sasa+lookup", row, "A") == ["`sasa` + look-up", *cells, "2,000"]


def test_a_speed_of_another_machine_and_a_figure_of_former_code_are_marked() -> None:
    kept = {"l0": 1, "fve": 1, "delta_ce": 1, "dead_share": 0, "specific_live": 0, "holds_live": 0}
    kept |= {"seen": 1, "cpu_seconds": 1, "machine": "B", "measured_before": "rows had a sign"}
    first, *_, last = row_of("sasa", kept, most_used([{"machine": "A"}, {"machine": "A"}, kept]))
    assert (first, last) == ("`sasa` †", "1 ‡")
    assert dagger([{}, kept, kept]) == ["", "† Measured before rows had a sign."] and not dagger([{}])
