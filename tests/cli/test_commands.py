"""Every command line mistake is one line of words and a non-zero exit, never a traceback."""

import json
from pathlib import Path

import pytest

from lexiscope.errors import LexiscopeError
from tests import tiny
from tests.cli.commands import lexiscope, lexiscope_process
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
