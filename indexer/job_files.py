"""An unfinished job on disk: what was learned so far, in a folder beside the index, so that a killed one goes
on.

    work-<fingerprint>/
        all.npz                     the state of a job that is not sharded
        shard-2-of-8.npz            of a finished shard; shard-2-of-8.partial.npz while it is not
        fit-0.npz                   anchors fitted for a dictionary that carries none
        LOCK-<name>                 held by the process that writes <name>

The fingerprint is of dictionaries, model, text and settings: work for anything else is another folder. Files
are replaced whole.
"""

import fcntl
import os
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch

from indexer.counts.state import IndexingError, Shape, State, merge
from indexer.text_pass.blocks import Shard
from lexiscope.checkpoint import AnchorFit

PARTIAL = ".partial"
ALL = "all"
KEPT = "The index that serves is untouched."


def fingerprint(*parts: object) -> str:
    return sha256(repr(parts).encode()).hexdigest()[:12]


class Work:
    def __init__(self, root: Path, key: str, shape: Shape, shard: Shard | None) -> None:
        self.folder, self.shape, self.shard = root / f"work-{key}", shape, shard

    @property
    def name(self) -> str:
        return ALL if self.shard is None else f"shard-{self.shard.number}-of-{self.shard.of}"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Raises IndexingError where another process does the same work."""
        with ExitStack() as held:
            with _disk(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
                file = held.enter_context(open(self.folder / f"LOCK-{self.name}", "a+", encoding="ascii"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise IndexingError(
                    f"Another process is doing this work already ({self.folder}). {KEPT}"
                ) from None
            yield

    def unfinished(self) -> bool:
        return bool(self._files())

    def _files(self) -> list[Path]:
        """The states that this job can go on from: a shard's own, or all there are."""
        if self.shard is not None:
            return [path for path in (self._path(PARTIAL), self._path()) if path.is_file()]
        return (
            sorted([*self.folder.glob("all.npz"), *self.folder.glob("shard-*.npz")])
            if self.folder.is_dir()
            else []
        )

    def _path(self, ending: str = "") -> Path:
        return self.folder / f"{self.name}{ending}.npz"

    def load(self) -> State:
        """All that is there, merged; of files that hold the same blocks the fullest is taken. Raises
        IndexingError: damaged.
        """
        states = [State.from_arrays(self.shape, _read(path)) for path in self._files()]
        whole = State(self.shape)
        for state in sorted(states, key=lambda state: -len(state.blocks)):
            if not np.isin(state.blocks, whole.blocks).any():
                whole = merge(whole, state)
        return whole

    def save(self, state: State, *, finished: bool = False) -> None:
        """Raises IndexingError: a full disk; what was saved before is then still there."""
        whole = finished or self.shard is None
        self._write(self._path("" if whole else PARTIAL), state.arrays())
        if finished and self.shard is not None:
            self._path(PARTIAL).unlink(missing_ok=True)

    def missing_shards(self) -> list[int]:
        if self.shard is None:
            return []
        of = self.shard.of
        return [
            number
            for number in range(1, of + 1)
            if not (self.folder / f"shard-{number}-of-{of}.npz").is_file()
        ]

    def save_fit(self, at: int, fit: AnchorFit) -> None:
        tensors = {"anchors": fit.anchors, "counts": fit.counts, "mean": fit.mean, "assigned": fit.assigned}
        arrays = {name: tensor.numpy() for name, tensor in tensors.items()} | {"kind": np.array(fit.kind)}
        self._write(self.folder / f"fit-{at}.npz", arrays)

    def load_fit(self, at: int) -> AnchorFit | None:
        path = self.folder / f"fit-{at}.npz"
        if not path.is_file():
            return None
        found = _read(path)
        return AnchorFit(
            *(torch.from_numpy(found[name]) for name in ("anchors", "counts", "mean", "assigned")),
            kind=str(found["kind"]),
        )

    def _write(self, path: Path, arrays: Mapping[str, np.ndarray]) -> None:
        fresh = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            with _disk(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
                with open(fresh, "wb") as file:
                    np.savez(file, **arrays)  # type: ignore[arg-type]
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(fresh, path)
        finally:
            fresh.unlink(missing_ok=True)

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise IndexingError(
            f"{path} is damaged ({error}); remove it to begin that part again. {KEPT}"
        ) from error


def check_space(root: Path, needed: int) -> None:
    """Raises IndexingError where the disk of `root` has not `needed` bytes free."""
    place = next(folder for folder in (root, *root.resolve().parents) if folder.exists())
    free = shutil.disk_usage(place).free
    if free < needed:
        raise IndexingError(
            f"The disk of {root} has {free / 1e9:.1f} GB free; this index and the work towards it may take {needed / 1e9:.1f} GB. "
            f"Free some space, or set LEXISCOPE_INDEX to a folder on another disk. {KEPT}"
        )


@contextmanager
def _disk(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise IndexingError(
            f"Work could not be saved in {folder}: {error.strerror or error}. What was saved before is still there: mend that, then "
            f"go on with --resume. {KEPT}"
        ) from error
