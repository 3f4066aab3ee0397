"""Files appear whole or not at all, and a lock holds against every other process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lexiscope.files import (
    Locked,
    lack_of_space,
    lock,
    new_folder,
    portable_command,
    portable_path,
    replace_file,
    temporary_folder,
)


def test_a_file_is_replaced_only_when_the_block_ends_well(tmp_path: Path) -> None:
    file = tmp_path / "file"
    with replace_file(file) as partial:
        partial.write_text("first")
        assert not file.exists()
    with pytest.raises(RuntimeError), replace_file(file) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert file.read_text() == "first"
    assert list(tmp_path.iterdir()) == [file]


def test_what_a_killed_writer_left_is_written_over(tmp_path: Path) -> None:
    file = tmp_path / "file"
    with replace_file(file) as partial:
        left = partial
        partial.write_text("x")
    left.write_text("left by a killed process")
    with replace_file(file) as partial:
        partial.write_text("new")
    assert file.read_text() == "new"
    assert list(tmp_path.iterdir()) == [file]


def test_a_folder_appears_when_it_is_whole_and_never_over_another(tmp_path: Path) -> None:
    with new_folder(tmp_path / "a" / "b") as partial:
        (partial / "inside").mkdir()
        (partial / "inside" / "file").write_text("x")
        assert not (tmp_path / "a" / "b").exists()
    assert (tmp_path / "a" / "b" / "inside" / "file").read_text() == "x"
    with pytest.raises(OSError), new_folder(tmp_path / "a" / "b") as partial:
        (partial / "other").write_text("y")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["inside"]


HOLD = """
import sys; from pathlib import Path; from lexiscope.files import lock
with lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_lock_holds_against_another_process_and_ends_with_it(tmp_path: Path) -> None:
    file = tmp_path / "LOCK"
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None and other.stdout.readline() == "held\n"
    with pytest.raises(Locked) as refused, lock(file):
        pass
    assert refused.value.owner == str(other.pid)
    other.kill()
    other.wait()
    with lock(file, wait=True):
        assert file.read_text() == str(os.getpid())
        with pytest.raises(Locked), lock(file):
            pass
    with lock(file):
        pass


MAKE = """
import sys; from pathlib import Path; from lexiscope.files import temporary_folder
with temporary_folder("work-", Path(sys.argv[1])) as folder:
    (folder / "file").touch()
    print(folder, flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_process_left_in_a_temporary_folder_goes_with_the_next(tmp_path: Path) -> None:
    command = [sys.executable, "-c", MAKE, str(tmp_path)]
    others = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in "ab"
    ]
    killed, living = (Path(str(other.stdout and other.stdout.readline().strip())) for other in others)
    others[0].kill()
    others[0].wait()
    assert (killed / "file").is_file()
    with temporary_folder("work-", tmp_path) as own:
        assert set(tmp_path.iterdir()) == {own, living} and (living / "file").is_file()
    others[1].communicate()
    assert list(tmp_path.iterdir()) == []


def test_room_is_looked_for_where_a_folder_will_be(tmp_path: Path) -> None:
    assert lack_of_space(tmp_path / "not" / "yet", 1) == ""
    assert lack_of_space(tmp_path / "not" / "yet", 10**18).startswith("1,000,000,000.0 GB do not fit under")


def test_a_command_is_kept_without_the_paths_of_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = ["lexiscope", "train", "/elsewhere/gpt2", f"--out={tmp_path}/data/runs", "--cache", str(tmp_path)]
    given += ["--text", "/mnt/corpus/a b.txt.xz", "data/c.txt", "--lambda=1e-4", "--layers", "0,3"]
    kept = "lexiscope train gpt2 --out=data/runs --cache . --text 'a b.txt.xz' data/c.txt --lambda=1e-4"
    assert portable_command(given) == f"{kept} --layers 0,3"


def test_a_portable_path_has_no_folder_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert portable_path(str(tmp_path / "models" / "m")) == "models/m"
    assert portable_path("/srv/lab/models/m") == "m"
    assert portable_path("someone/m") == "someone/m" and portable_path("") == ""
