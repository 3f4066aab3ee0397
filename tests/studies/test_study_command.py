"""`lexiscope study` from the command line to the record on disk, and the mistakes on the way."""

from pathlib import Path

import pytest

from lexiscope.study_files import NoSuchStudy, names, read_record
from studies import STUDIES
from tests.cli.commands import lexiscope


def test_a_study_is_kept_as_a_record_without_paths_of_the_machine(
    runs: list[Path], text_file: Path, tmp_path: Path
) -> None:
    ask = [
        "study",
        "dark-matter",
        str(runs[2]),
        "--text",
        str(text_file),
        "--tokens",
        "1200",
        "--length",
        "48",
    ]
    done = lexiscope(*ask, "--out", str(tmp_path / "kept"), work=tmp_path)
    assert done.returncode == 0, done.stderr
    assert names(tmp_path / "kept") == ["dark-matter-tiny"]
    record = read_record(tmp_path / "kept", "dark-matter-tiny")
    assert record.study == "dark-matter" and record.model == "tiny" and record.arguments["tokens"] == 1200
    assert (
        str(tmp_path) not in record.model_dump_json() and str(runs[2].parent) not in record.model_dump_json()
    )
    assert all(figure.low is None or figure.low <= figure.value for figure in record.figures)
    assert record.answer.split()[0] in done.stdout.replace("\n", " ")
    assert STUDIES["dark-matter"].question == record.question


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["study", "dark-matter", "{run}"], "--text"),
        (["study", "darkmatter", "{run}"], "darkmatter"),
        (["study", "dark-matter", "{run}", "--text", "{text}", "--tokens", "1"], "equal to 200"),
        (["study", "dark-matter", "{work}", "--text", "{text}"], "holds no dictionary"),
        (["study", "dark-matter", "{run}", "--text", "{work}/none.txt"], "no text at"),
    ],
)
def test_a_mistake_is_words_and_a_non_zero_exit(
    arguments: list[str], says: str, runs: list[Path], text_file: Path, tmp_path: Path
) -> None:
    filled = [each.format(run=runs[2], text=text_file, work=tmp_path) for each in arguments]
    result = lexiscope(*filled, work=tmp_path)
    assert result.returncode != 0 and says in result.stderr and "Traceback" not in result.stderr
    assert not list(tmp_path.glob("studies/*.json"))


def test_the_list_has_every_study(tmp_path: Path) -> None:
    shown = lexiscope("studies", work=tmp_path).stdout
    assert all(name in shown for name in STUDIES)


def test_a_name_that_leaves_the_folder_is_no_record(tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(NoSuchStudy):
        read_record(tmp_path / "inside", "../x")
