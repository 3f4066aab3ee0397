"""A run that is not finished: the hidden folder beside its destination that `--resume` continues.

    .<layer>-<set>.unfinished/plan.json     what is being trained; a resume with another plan is refused
                              train.jsonl   one line a log step, flushed as it goes
                              snapshot.pt   weights, moments, random state and step, replaced at intervals
                              checkpoint/   the trained dictionary; once evaluated, it becomes the destination

Every file appears under its name only when whole, so a process may die anywhere. Snapshots are read with
`weights_only=True`.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

from lexiscope.checkpoint import LOG, load_checkpoint, refuse_existing, write_json
from lexiscope.errors import CheckpointError
from lexiscope.files import Locked, lack_of_space, lock, replace_file
from lexiscope.formats.saelens import CONFIG
from lexiscope.precision import VARIABLE
from trainer.evaluation import Measured

PLAN, SNAPSHOT, TRAINED = "plan.json", "snapshot.pt", "checkpoint"


class UnfinishedRun:
    """The run that will stand at `destination`. `plan` is plain JSON: equal plans, on one machine equal
    weights.

    `defaults` are those of the fields of the plan's recipe: a run that was begun before a field existed has
    it at its default.
    """

    def __init__(
        self, destination: Path, plan: dict[str, Any], defaults: dict[str, Any] | None = None
    ) -> None:
        self.destination, self.plan = destination, json.loads(json.dumps(plan))
        self.defaults: dict[str, Any] = json.loads(json.dumps(defaults or {}))
        self.folder = destination.with_name(f".{destination.name}.unfinished")
        self._held: ExitStack | None = None

    # --- before any time is spent ---

    def check(self, *, resume: bool) -> None:
        """Raises CheckpointError where the destination holds a run, or where an unfinished one may not be
        resumed.

        With `resume`, a finished run of the same plan is no error: see `finished`.
        """
        if resume and self.finished:
            return
        refuse_existing(self.destination)
        file = self.folder / PLAN
        if not file.is_file():
            return
        if not resume:
            raise CheckpointError(
                f"There is an unfinished run at {self.folder}; it is kept. Resume it with --resume, or "
                "remove it first."
            )
        self._refuse_other(json.loads(file.read_text(encoding="utf-8")), self.folder)

    def _refuse_other(self, found: dict[str, Any], where: Path) -> None:
        if "recipe" in found:
            found = found | {"recipe": self.defaults | found["recipe"]}
        other = [
            f"{key} was {found.get(key)!r}, is {self.plan.get(key)!r}"
            for key in {**found, **self.plan}
            if found.get(key) != self.plan.get(key)
        ]
        if other:
            raise CheckpointError(
                f"{where} is a run of another plan ({'; '.join(other)}). It is kept: resume it with the plan "
                "it was started with, or remove it first."
            )

    @property
    def finished(self) -> bool:
        """The destination holds this very plan's run."""
        if not (self.destination / CONFIG).is_file():
            return False
        found = load_details(self.destination)
        if "plan" in found:
            self._refuse_other(found["plan"], self.destination)
        return "plan" in found

    def open(self) -> None:
        """Make the folder, and hold it against other processes until this one ends."""
        with self.errors():
            self.folder.mkdir(parents=True, exist_ok=True)
            held = ExitStack()
            try:
                held.enter_context(lock(self.folder / "LOCK"))
            except Locked as error:
                raise CheckpointError(
                    f"Another process ({error.owner}) is training {self.destination}; two would spoil each "
                    "other's run."
                ) from None
            self._held = held
            if not (self.folder / PLAN).is_file():
                with replace_file(self.folder / PLAN) as partial:
                    write_json(partial, self.plan)

    # --- while training ---

    @property
    def has_snapshot(self) -> bool:
        return (self.folder / SNAPSHOT).is_file()

    @property
    def trained(self) -> Path | None:
        """The finished dictionary's folder, which lacks only its evaluation."""
        path = self.folder / TRAINED
        return path if path.is_dir() else None

    def load(self) -> dict[str, Any] | None:
        """The last snapshot's state; None where there is none."""
        file = self.folder / SNAPSHOT
        if not file.is_file():
            return None
        try:
            state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
            return state
        except Exception as error:  # torch raises anything from EOFError to UnpicklingError
            raise CheckpointError(
                f"{file} is damaged ({type(error).__name__}). Remove {self.folder} to start again."
            ) from error

    def refuse_other_precision(self, saved: str | None, now: str) -> None:
        """Raises CheckpointError where the snapshot was trained in another precision than training would go
        on in; None in older snapshots.
        """
        if saved not in (None, now):
            raise CheckpointError(
                f"{self.folder} was trained in {saved}, and products here are in {now}. It is kept: resume "
                f"with {VARIABLE}={saved}, or remove it to start again."
            )

    def save(self, state: dict[str, Any]) -> None:
        """Replace the snapshot. Raises CheckpointError where the disk is full; the one before is kept."""
        with self.errors(), replace_file(self.folder / SNAPSHOT) as partial, partial.open("wb") as sink:
            try:
                torch.save(state, sink)
            except RuntimeError as error:  # torch's zip writer hides the disk's own error in one of these
                raise OSError(28, str(error).splitlines()[0]) from error

    @property
    def log(self) -> Path:
        return self.folder / LOG

    # --- the end ---

    def publish(self, measured: Measured) -> None:
        """The trained dictionary, its metrics and its log become the destination; the rest is removed."""
        with self.errors():
            trained = self.folder / TRAINED
            measured.save(trained)
            with replace_file(trained / LOG) as partial:
                shutil.copyfile(self.log, partial)
            refuse_existing(self.destination)
            os.replace(trained, self.destination)
        self.remove()

    def leave(self) -> None:
        """After an error: what can be resumed is kept, the rest removed."""
        if self._held and not self.has_snapshot and self.trained is None:
            self.remove()
        self.close()

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.close()

    def close(self) -> None:
        """Let other processes resume the run."""
        if self._held:
            self._held.close()
            self._held = None

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Errors of the disk as CheckpointError, which says what is kept."""
        try:
            yield
        except OSError as error:
            kept = (
                "What was trained is kept: resume with --resume."
                if self.has_snapshot or self.trained is not None
                else "Nothing has changed."
            )
            raise CheckpointError(
                f"{self.folder} could not be written: {error.strerror or error}. {kept}"
            ) from error


def refuse_full_disk(where: Path, needed: int) -> None:
    """Raises CheckpointError where `needed` bytes do not fit under `where`."""
    if lack := lack_of_space(where, needed):
        raise CheckpointError(
            f"Checkpoints and snapshots of {lack}. Free some disk, or give another place with --out."
        )


def load_details(path: Path) -> dict[str, Any]:
    """The metadata.lexiscope block of a checkpoint's cfg.json."""
    return load_checkpoint(path, anchors=False).details
