"""Every command line mistake is one line of words and a non-zero exit, never a traceback."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import httpx
import pytest
from rich.table import Table

import cli.exchange_commands
import cli.keys_commands
import cli.main
from lexiscope.errors import LexiscopeError
from tests import tiny
from tests.cli.commands import lexiscope, lexiscope_process, places
from tests.store import synthetic
from trainer.__main__ import parse_layers
from trainer.presets import recipes


@pytest.mark.slow
def test_train_index_and_figures_from_the_command_line(
    model_folder: Path, text_file: Path, tmp_path: Path
) -> None:
    sizes = ["--tokens", "2500", "--eval-tokens", "200", "--k", "4", "--length", "48"]
    trained = lexiscope(
        "train", str(model_folder), "--text", str(text_file), "--layers", "1", *sizes, work=tmp_path
    )
    assert trained.returncode == 0, trained.stderr
    run = tmp_path / "runs" / "tiny" / "1-vasae"
    assert (run / "metrics.json").is_file() and "1-vasae" in trained.stdout
    assert "Read " in trained.stdout and "left out" in trained.stdout
    indexed = lexiscope_process("index", str(run), "--text", str(text_file), "--length", "48", work=tmp_path)
    assert indexed.returncode == 0, indexed.stderr
    assert (tmp_path / "index" / "CURRENT").is_file()
    again = lexiscope(
        "train", str(model_folder), "--text", str(text_file), "--layers", "1", *sizes, work=tmp_path
    )
    assert again.returncode == 1 and "already holds a run" in again.stderr
    assert "Traceback" not in again.stderr and again.stderr.count("\n") == 1
    rows = tmp_path / "rows.jsonl"
    rows.write_text(
        "".join(json.dumps({"body": line}) + "\n" for line in text_file.read_text().split(tiny.END)) + "{}"
    )
    named = ["name", str(run), "--text", str(rows), "--tokens", "1000", "--length", "48"]
    without = lexiscope(*named, work=tmp_path)
    assert without.returncode == 1 and "the fields are body. Name one with --field" in without.stderr
    read = lexiscope(*named, "--field", "body", work=tmp_path)
    assert read.returncode == 0 and "where reading stopped" in read.stdout, read.stderr
    assert "shows them all: http://127.0.0.1:8000/\n" in read.stdout, "a page that there is"


def test_index_reads_the_field_that_is_named_and_without_it_publishes_nothing(
    runs: list[Path], text_file: Path, tmp_path: Path
) -> None:
    rows = tmp_path / "rows.jsonl"
    documents = text_file.read_text().split(tiny.END)[:40]
    rows.write_text("".join(json.dumps({"id": 1, "doc": {"body": text}}) + "\n" for text in documents))
    ask = ["index", str(runs[0]), "--text", str(rows), "--length", "48", "--ablate", "0"]
    without = lexiscope(*ask, work=tmp_path)
    assert without.returncode == 1 and "the fields are id, doc. Name one with --field" in without.stderr
    assert not (tmp_path / "index" / "CURRENT").exists()
    named = lexiscope(*ask, "--field", "doc.body", work=tmp_path)
    assert named.returncode == 0 and "of 40 documents" in named.stdout, named.stderr
    assert (tmp_path / "index" / "CURRENT").is_file()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["train", "{work}/none", "--text", "{text}"], "no model at"),
        (["train", "{model}", "--text", "{work}/none.txt"], "no text at"),
        (["train", "{model}", "--text", "{text}", "--layers", "5"], "no layer 5"),
        (["train", "{model}", "--text", "{text}", "--layers", "first"], "neither 'all' nor"),
        (["train", "{model}", "--text", "{text}", "--recipe", "best"], "no recipe"),
        (["index", "{work}", "--text", "{text}"], "holds no dictionary"),
    ],
)
def test_a_mistake_is_one_line_and_a_non_zero_exit(
    arguments: list[str], says: str, model_folder: Path, text_file: Path, tmp_path: Path
) -> None:
    filled = [a.format(work=tmp_path, model=model_folder, text=text_file) for a in arguments]
    result = lexiscope(*filled, work=tmp_path)
    assert result.returncode == 1
    assert says in result.stderr
    assert "Traceback" not in result.stderr
    assert len([line for line in result.stderr.splitlines() if "lexiscope:" in line]) == 1


@pytest.mark.parametrize("commands", [cli.main, cli.exchange_commands, cli.keys_commands])
def test_a_text_that_looks_like_markup_is_printed_as_it_is(commands: ModuleType) -> None:
    text = "[/INST] [name] :key:"
    table = Table(text)
    table.add_row(text)
    with commands.console.capture() as shown:
        commands.console.print(text)
        commands.console.print(table)
    assert shown.get().count(text) == 3


@pytest.mark.slow
def test_serve_on_a_free_port_prints_the_address_that_it_answers_at(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import cli; cli.run()", "serve", "--port", "0"]
    synthetic.publish(tmp_path / "index", [synthetic.Dictionary("tiny", 1)])
    given = places(tmp_path) | {"LEXISCOPE_WORKER_URL": "http://127.0.0.1:9"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | given) as server:
        assert server.stdout is not None
        said = re.search(r"http://127\.0\.0\.1:[1-9]\d*", server.stdout.readline())
        assert said is not None
        transport = httpx.HTTPTransport(retries=5)  # the port is bound a moment before it answers
        with httpx.Client(transport=transport, timeout=60) as client:
            assert client.get(f"{said[0]}/tiny/1-vasae").status_code == 200
        server.terminate()


def test_layers_are_all_or_numbers_and_ranges() -> None:
    assert parse_layers("all", 3) == [0, 1, 2]
    assert parse_layers("0,2-4, 7", 8) == [0, 2, 3, 4, 7]
    for wrong in ("", "a", "1-", "-1", "1,,2", "5-3", "²"):
        with pytest.raises(LexiscopeError):
            parse_layers(wrong, 8)


def test_methods_lists_every_recipe_with_its_settings(tmp_path: Path) -> None:
    listed = lexiscope("methods", work=tmp_path).stdout.splitlines()
    for name, config in recipes().items():
        [at] = [place for place, line in enumerate(listed) if line.split()[:1] == [name]]
        assert f"k={config.k}" in listed[at + 1].split()
    [common] = [line for line in listed if line.startswith("All recipes have")]
    assert {"batch=2048", "learning_rate=0.002", "schedule=warmup-decay"} <= set(common.split())
