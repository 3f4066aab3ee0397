"""A build's progress as a file: what a reader sees while it runs, ends, fails or is killed."""

import time
from pathlib import Path

import pytest
from rich.console import Console
from rich.progress import Progress

from lexiscope import progress
from lexiscope.progress import NAME, ProgressFile, read_progress, watched


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "EVERY", 0.01)


def bar() -> Progress:
    return Progress(console=Console(quiet=True))


def until(folder: Path, holds) -> None:
    end = time.monotonic() + 10
    while not holds(read_progress(folder)):
        assert time.monotonic() < end, read_progress(folder)
        time.sleep(0.01)


def test_a_running_build_shows_its_steps_and_the_tasks_of_its_bars(tmp_path: Path) -> None:
    with ProgressFile(tmp_path, "demo", ["train", "index"]) as kept:
        with kept.step("train"):
            pass
        with kept.step("index"), watched(bar()) as shown:
            task = shown.add_task("reading", total=200, rate="12 tok/s")
            shown.advance(task, 50)
            until(tmp_path, lambda found: found.tasks and found.tasks[0].completed == 50)
            found = read_progress(tmp_path)
            assert (found.state, found.title) == ("running", "demo")
            assert [(step.label, step.state) for step in found.steps] == [
                ("train", "done"),
                ("index", "running"),
            ]
            assert (found.tasks[0].label, found.tasks[0].total, found.tasks[0].rate) == (
                "reading",
                200,
                "12 tok/s",
            )
        until(tmp_path, lambda found: found.tasks == [])
    ended = read_progress(tmp_path)
    assert ended.state == "finished" and [step.state for step in ended.steps] == ["done", "done"]


def test_a_failed_build_keeps_its_error(tmp_path: Path) -> None:
    with pytest.raises(OSError), ProgressFile(tmp_path, "demo", ["train"]) as kept, kept.step("train"):
        raise OSError("the disk is full")
    found = read_progress(tmp_path)
    assert (found.state, found.message, found.steps[0].state) == ("failed", "the disk is full", "running")


def test_a_killed_build_is_stopped(tmp_path: Path) -> None:
    running = progress.BuildProgress(state="running", updated=time.time() - 31)
    (tmp_path / NAME).write_text(running.model_dump_json())
    assert read_progress(tmp_path).state == "stopped"


@pytest.mark.parametrize("content", ["", "[]", '{"state": "odd"}', "\ud800"])
def test_a_file_that_cannot_be_read_is_no_build(tmp_path: Path, content: str) -> None:
    (tmp_path / NAME).write_text(content, errors="surrogatepass")
    assert read_progress(tmp_path).state == "none"
    assert read_progress(tmp_path / "nowhere").state == "none"


def test_a_bar_without_a_file_is_only_a_bar(tmp_path: Path) -> None:
    with watched(bar()) as shown:
        shown.add_task("reading")
    assert list(tmp_path.iterdir()) == []
