"""How far a build is, as a file beside the index: the building process writes it, the server shows it.

Whoever draws a progress bar does it with `watched`; where the process keeps a `ProgressFile`, the bar's tasks
are in the file too.
"""

import json
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

from pydantic import ValidationError
from rich.progress import Progress, Task

from lexiscope.records import BuildProgress, BuildStep, BuildTask

NAME = "progress.json"
EVERY = 1.0
"""seconds between two writes"""
SILENT = 30.0
"""seconds without a write after which the building process is taken for ended"""

_kept: ContextVar["ProgressFile | None"] = ContextVar("progress_file", default=None)


class ProgressFile:
    """`progress.json` in a folder while a build runs.

        with ProgressFile(folder, "demo", ["train", "index"]) as kept:
            with kept.step("train"):
                …

    It ends as `finished`, or as `failed` with the exception's text.
    """

    def __init__(self, folder: Path, title: str, steps: Sequence[str]) -> None:
        self._path = folder / NAME
        self._record = BuildProgress(
            state="running", title=title, steps=[BuildStep(label=label) for label in steps]
        )
        self._bars: list[Progress] = []
        self._started = time.monotonic()
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._writer = threading.Thread(target=self._write_until_ended, daemon=True)

    def __enter__(self) -> "ProgressFile":
        with suppress(OSError):  # the builder says so in its own words
            self._path.parent.mkdir(parents=True, exist_ok=True)
        self._write()
        self._token = _kept.set(self)
        self._writer.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        _kept.reset(self._token)
        self._ended.set()
        self._writer.join()
        self._change(state="finished" if kind is None else "failed")
        if error is not None:
            self._change(message=str(error) or type(error).__name__)
        self._write()

    @contextmanager
    def step(self, label: str) -> Iterator[None]:
        """Mark a step as running, and as done when the block ends well."""
        self._set_step(label, "running")
        yield
        self._set_step(label, "done")

    def show(self, bar: Progress) -> None:
        """Have the tasks of a bar in the file."""
        self._bars.append(bar)

    def hide(self, bar: Progress) -> None:
        self._bars.remove(bar)

    def say(self, message: str) -> None:
        self._change(message=message)

    def _set_step(self, label: str, state: str) -> None:
        steps = [
            BuildStep.model_validate({"label": each.label, "state": state}) if each.label == label else each
            for each in self._record.steps
        ]
        self._change(steps=steps)
        self._write()

    def _change(self, **fields: object) -> None:
        with self._lock:
            self._record = self._record.model_copy(update=fields)

    def _write_until_ended(self) -> None:
        while not self._ended.wait(EVERY):
            self._write()

    def _write(self) -> None:
        """A full disk or a lost folder does not end a build: the file is only news of it."""
        tasks = [_task(task) for bar in list(self._bars) for task in bar.tasks if not task.finished]
        self._change(tasks=tasks, seconds=time.monotonic() - self._started, updated=time.time())
        partial = self._path.with_name(f".{NAME}.partial")
        with self._lock:
            try:
                partial.write_text(self._record.model_dump_json(), encoding="utf-8")
                os.replace(partial, self._path)
            except OSError:
                with suppress(OSError):
                    partial.unlink()


@contextmanager
def watched(bar: Progress) -> Iterator[Progress]:
    """A progress bar that runs for the block, and is in the process's `ProgressFile` where it keeps one."""
    kept = _kept.get()
    with bar:
        if kept is None:
            yield bar
            return
        kept.show(bar)
        try:
            yield bar
        finally:
            kept.hide(bar)


def say(message: str) -> None:
    """A line for the process's `ProgressFile`, where it keeps one."""
    kept = _kept.get()
    if kept is not None:
        kept.say(message)


def read_progress(folder: Path) -> BuildProgress:
    """The build of the folder's `progress.json`. What cannot be read is no build."""
    try:
        found = BuildProgress.model_validate(json.loads((folder / NAME).read_text(encoding="utf-8")))
    except (OSError, ValueError, ValidationError):
        return BuildProgress()
    if found.state == "running" and time.time() - found.updated > SILENT:
        return found.model_copy(update={"state": "stopped", "tasks": []})
    return found


def _task(task: Task) -> BuildTask:
    return BuildTask(
        label=str(task.description),
        completed=task.completed,
        total=task.total,
        rate=str(task.fields.get("rate", "")),
        seconds_left=task.time_remaining,
    )
