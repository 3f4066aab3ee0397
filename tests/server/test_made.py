"""`/{model}/{source}/made`: curves from the log, figures with their definitions, the command."""

import json
import shlex
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from lexiscope import training_files
from lexiscope.measures import RUN
from lexiscope.settings import Settings
from server import create_app
from server.made import MAX_POINTS, curves, held_out, thinned
from store import IndexedDictionary, Store
from tests.store import synthetic

LINES = [
    {"step": 10, "tokens": 100, "loss": 0.5, "live": 0.9, "terms": {}, "validation_loss": None},
    {"step": 20, "tokens": 200, "loss": 0.25, "live": 0.7, "terms": {"aux_k": 0.01}, "validation_loss": None},
]


@pytest.fixture
def made(tmp_path: Path) -> TestClient:
    """A site whose checkpoints have a log; its second line is damaged."""
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    lines = [json.dumps(LINES[0]), "{broken", json.dumps(LINES[1]), ""]
    (checkpoint / "train.jsonl").write_text("\n".join(lines))

    class Here(Store):
        def dictionaries(self) -> list[IndexedDictionary]:
            return [place._replace(checkpoint_path=str(checkpoint)) for place in super().dictionaries()]

    settings = Settings(index=tmp_path / "index")
    synthetic.publish(settings.index)
    return TestClient(create_app(settings, store=Here(settings)))


def test_the_curves_are_those_of_the_log_without_its_damaged_lines(made: TestClient) -> None:
    record = made.get("/tiny/1-vasae/made.json").json()
    drawn = {curve["name"]: (curve["tokens"], curve["values"]) for curve in record["curves"]}
    assert drawn == {
        "loss": ([100, 200], [0.5, 0.25]),
        "live": ([100, 200], [0.9, 0.7]),
        "terms.aux_k": ([200], [0.01]),
    }
    html = made.get("/tiny/1-vasae/made", headers={"accept": "text/html"}).text
    assert html.count("<figure") == 3 and "200 tokens: 70.0 %" in html
    assert made.get("/api/v1/dictionaries/tiny/1-vasae/made").json() == record


def test_without_a_log_the_page_says_so(browser: TestClient) -> None:
    html = browser.get("/tiny/1-vasae/made").text
    assert "There is no train.jsonl" in html and "<figure" not in html
    assert 'href="/tiny/1-vasae/made"' in browser.get("/tiny/1-vasae").text
    assert browser.get("/tiny/9-x/made").status_code == 404
    assert browser.get("/read/x/made").status_code == 404


def test_a_long_log_is_thinned_evenly_and_keeps_its_ends() -> None:
    points = [(step, 0.0) for step in range(1000)]
    kept = thinned(points)
    assert len(kept) == MAX_POINTS and kept[0] == points[0] and kept[-1] == points[-1]
    steps = {after[0] - before[0] for before, after in pairwise(kept)}
    assert steps <= {5, 6}
    assert curves([]) == []


def test_held_out_figures_have_their_definition_chance_and_interval() -> None:
    metrics = {"reads_precision": 0.3, "reads_null": 0.01, "delta_ce": 0.1, "delta_ce_ci": [0.08, 0.12]}
    [delta, reads] = held_out({**metrics, "passage_delta_ce": [[1.0, 2]], "unknown": 3})
    assert (delta.name, delta.value, delta.interval) == ("delta_ce", 0.1, [0.08, 0.12])
    assert (reads.value, reads.chance, reads.meaning) == (0.3, 0.01, RUN["reads_precision"].meaning)


CONFIG = {"name": "plain", "k": 4, "terms": "", "centre": True, "epochs": 0}
PLAN = {"width": 300, "tokens": 5000, "seen": 20_000, "filling": 5000, "length": 48, "seed": 3}


def options(training: dict[str, Any]) -> list[str]:
    return shlex.split(training_files.command(training, "/my models/tiny"))


def test_the_command_names_everything_that_the_weights_follow_from() -> None:
    training = {
        "config": CONFIG,
        "plan": PLAN,
        "layer": 2,
        "set": "mine",
        "text": ["a b.txt"],
        "model_id": "tiny",
    }
    words = options(training)
    assert words[:5] == ["lexiscope", "train", "/my models/tiny", "--text", "a b.txt"]
    for option in (
        "--layers 2",
        "--recipe plain",
        "--seen 20000",
        "--buffer 5000",
        "--seed 3",
        "--set-name mine",
    ):
        assert option in " ".join(words)
    assert {"k=4", "terms=", "centre=true"} <= set(words) and "name=plain" not in words


def test_the_command_reads_the_same_field_and_reads_it_as_chat() -> None:
    training = {"config": CONFIG, "plan": PLAN, "layer": 2, "text": ["rows.jsonl"]}
    assert not {"--field", "--chat"} & set(options(training))
    words = options(training | {"field": "body.text", "chat": True})
    assert words[3:8] == ["--text", "rows.jsonl", "--field", "body.text", "--chat"]


def test_a_recipe_of_epochs_has_no_number_of_tokens_and_other_text_is_a_placeholder() -> None:
    plan = {**PLAN, "held_out": "other text", "transcoder": True}
    words = options({"config": {**CONFIG, "epochs": 20}, "plan": plan, "layer": 0, "text": []})
    assert "--seen" not in words and "--held-out" in words and "--transcoder" in words
    assert training_files.command({"recipe": "vasae"}, "x") == "", "without a plan there is no command"
